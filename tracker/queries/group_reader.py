# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads a group: the ids in its index, in send order, with the seals of the segments, and the records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from shared import decoding, group_index, redaction
from shared.errors import KeyMissing
from tracker.errors import IndexCorrupt, RecordCorrupt
from tracker.events import records
from tracker.queries import seal
from tracker.queries.seal import Seal, Segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket, Entry

log = logging.getLogger(__name__)

RECORDS_AT_ONCE: Final = 1000

_is_seal = group_index.is_seal


class GroupReader:
    """Reads from both buckets; every method may raise StoreUnavailable."""

    def __init__(self, recipients: Bucket, index: Bucket) -> None:
        """Read ids from `index` and records from `recipients`."""
        self._recipients = recipients
        self._index = index

    def check(self, group_id: str) -> None:
        """Check a group id before KV is read.

        Raises:
            KeyMissing: the group id cannot be a key.
        """
        if not group_id or not group_index.is_valid(group_id):
            raise KeyMissing(group_id)

    async def email_ids(self, group_id: str) -> list[str]:
        """Return the ids of a group in send order, each once.

        Raises:
            KeyMissing: no email was sent under the group, or its id cannot be a key.
            IndexCorrupt: there is an index, but none of its segments can be read.
        """
        segments = await self.segments(group_id)
        return list(dict.fromkeys(email_id for segment in segments.values() for email_id in segment.email_ids))

    async def segments(self, group_id: str) -> dict[int, Segment]:
        """Return the segments of a group's index with their seals, by their numbers, in send order.

        Raises:
            KeyMissing: no email was sent under the group, or its id cannot be a key.
            IndexCorrupt: there is an index, but none of its segments can be read, or a seal cannot.
        """
        self.check(group_id)
        return await self.segments_of(group_index.key_of(group_id))

    async def segments_of(self, key: str) -> dict[int, Segment]:
        """Return the same for the group with this key."""
        entries = await self._index.get_matching(key, group_index.later_segments(key), group_index.seals(key))
        if entries is None:
            entries = await self._read_one_by_one(key)
        if not entries:
            entries = {key: await self._index.get_from_leader(key)}
        decoded = _segments(entries)
        if all(segment is None for segment in decoded.values()):
            raise IndexCorrupt(key)
        return {number: segment or Segment() for number, segment in decoded.items()}

    async def segment(self, key: str, number: int) -> Segment | None:
        """Return one segment of the group with this key; None if it is missing or corrupt, and has no seal.

        Raises:
            IndexCorrupt: its seal cannot be read.
        """
        return _segments(await self._read_segment(key, number)).get(number)

    async def _read_one_by_one(self, key: str) -> dict[str, Entry]:
        """Read segment after segment, if the server has no batch reads or the group is too large for one."""
        entries: dict[str, Entry] = {}
        number = group_index.FIRST
        while found := await self._read_segment(key, number):
            entries.update(found)
            number += 1
        return entries

    async def _read_segment(self, key: str, number: int) -> dict[str, Entry]:
        """Read a segment and its seal, as of one moment."""
        keys = group_index.segment_key(key, number), group_index.seal_key(key, number)
        found = await self._index.get_matching(*keys)
        if found is not None:
            return found
        before: Entry | None = None
        while True:  # until the seal was the same before and after; it does not change often
            entries = {one: entry for one in keys if (entry := await self._from_leader(one))}
            if entries.get(keys[1]) == before:
                return entries
            before = entries.get(keys[1])

    async def _from_leader(self, key: str) -> Entry | None:
        try:
            return await self._index.get_from_leader(key)
        except KeyMissing:
            return None

    async def records(self, email_ids: Sequence[str]) -> AsyncIterator[list[EmailRecipientRecord]]:
        """Yield the records of the ids in order, many at a time, leaving out the missing and the corrupt."""
        for start in range(0, len(email_ids), RECORDS_AT_ONCE):
            wanted = email_ids[start : start + RECORDS_AT_ONCE]
            entries = await self._recipients.get_many(wanted)
            yield [record for record in (_decoded(one, entries.get(one)) for one in wanted) if record]


def _segments(entries: Mapping[str, Entry]) -> dict[int, Segment | None]:
    """Return the segments by their numbers, in send order; None for a corrupt one without a seal.

    Raises:
        IndexCorrupt: a seal cannot be read.
    """
    email_ids = {group_index.segment_number(one): _email_ids(one, entries[one]) for one in entries if not _is_seal(one)}
    seals = {group_index.segment_number(one): _seal(one, entries[one]) for one in entries if _is_seal(one)}
    segments: dict[int, Segment | None] = {}
    for number in sorted({*email_ids, *seals}):
        ids, sealed = email_ids.get(number), seals.get(number)
        segments[number] = Segment(ids or (), sealed or Seal()) if ids is not None or sealed else None
    return segments


def _email_ids(key: str, entry: Entry) -> tuple[str, ...] | None:
    """Return the ids of a segment that can be keys; None if the segment is corrupt."""
    try:
        return tuple(filter(group_index.is_legal_key, group_index.decode(entry.value)))
    except decoding.Malformed as error:
        _report_corrupt(key, entry, error)
        return None


def _seal(key: str, entry: Entry) -> Seal:
    """Return the seal, without which the counts of its group would be too low.

    Raises:
        IndexCorrupt: it cannot be read.
    """
    try:
        return seal.decode(entry.value)
    except decoding.Malformed as error:
        _report_corrupt(key, entry, error)
        raise IndexCorrupt(key) from error


def _report_corrupt(key: str, entry: Entry, error: Exception) -> None:
    extra = {"key": redaction.identifier(key), "revision": entry.revision, "error": str(error)}
    log.error("group_index.corrupt", extra=extra)


def _decoded(email_id: str, entry: Entry | None) -> EmailRecipientRecord | None:
    if entry is None:
        return None
    try:
        return records.decode(entry.value)
    except RecordCorrupt as error:
        log.warning("record.corrupt", extra={"email_id": email_id, "error": str(error)})
        return None

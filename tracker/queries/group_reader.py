# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads a group: the ids in its index, in send order, and their records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from shared import group_index, redaction
from shared.errors import KeyMissing
from tracker.errors import IndexCorrupt, RecordCorrupt
from tracker.events import records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket, Entry

log = logging.getLogger(__name__)

RECORDS_AT_ONCE: Final = 1000


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
        return list(dict.fromkeys(email_id for ids in segments.values() for email_id in ids))

    async def segments(self, group_id: str) -> dict[str, tuple[str, ...]]:
        """Return the ids of each segment of a group's index, in send order.

        Raises:
            KeyMissing: no email was sent under the group, or its id cannot be a key.
            IndexCorrupt: there is an index, but none of its segments can be read.
        """
        self.check(group_id)
        key = group_index.key_of(group_id)
        found = await self._index.get_matching(key, group_index.later_segments(key))
        segments = await self._read_one_by_one(key) if found is None else found
        if not segments:
            entry = await self._index.get_from_leader(key)
            segments = {key: entry}
        decoded = {one: _email_ids(one, segments[one]) for one in sorted(segments, key=group_index.segment_number)}
        if all(ids is None for ids in decoded.values()):
            raise IndexCorrupt(key)
        return {one: ids or () for one, ids in decoded.items()}

    async def segment(self, segment_key: str) -> tuple[str, ...]:
        """Return the ids of one segment; an empty tuple if it is missing or corrupt."""
        try:
            return _email_ids(segment_key, await self._index.get_from_leader(segment_key)) or ()
        except KeyMissing:
            return ()

    async def _read_one_by_one(self, key: str) -> dict[str, Entry]:
        """Read segment after segment, if the server has no batch reads or the group is too large for one."""
        segments: dict[str, Entry] = {}
        while True:
            segment_key = group_index.segment_key(key, len(segments))
            try:
                segments[segment_key] = await self._index.get_from_leader(segment_key)
            except KeyMissing:
                return segments

    async def records(self, email_ids: Sequence[str]) -> AsyncIterator[list[EmailRecipientRecord]]:
        """Yield the records of the ids in order, many at a time, leaving out the missing and the corrupt."""
        for start in range(0, len(email_ids), RECORDS_AT_ONCE):
            wanted = email_ids[start : start + RECORDS_AT_ONCE]
            entries = await self._recipients.get_many(wanted)
            yield [record for record in (_decoded(one, entries.get(one)) for one in wanted) if record]


def _email_ids(key: str, entry: Entry) -> tuple[str, ...] | None:
    """Return the ids of a segment that can be keys; None if the segment is corrupt."""
    try:
        return tuple(filter(group_index.is_legal_key, group_index.decode(entry.value)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        extra = {"key": redaction.identifier(key), "revision": entry.revision, "error": str(error)}
        log.error("group_index.corrupt", extra=extra)
        return None


def _decoded(email_id: str, entry: Entry | None) -> EmailRecipientRecord | None:
    if entry is None:
        return None
    try:
        return records.decode(entry.value)
    except RecordCorrupt as error:
        log.warning("record.corrupt", extra={"email_id": email_id, "error": str(error)})
        return None

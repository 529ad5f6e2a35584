# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Goes through both buckets, a page at a time: removes the emails that are due, and the deletion markers they leave."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract, decoding, erasure, group_index
from shared.errors import KeyMissing, RevisionConflict, StoreUnavailable
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan
from tracker.commands.retention import activity
from tracker.commands.retention.sealing import Place, Sealing
from tracker.errors import IndexCorrupt
from tracker.queries import seal
from tracker.queries.group_reader import RECORDS_AT_ONCE, GroupReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from datetime import datetime

    from shared.kv.scan import Stored
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tracker.queries.seal import Segment

INDEX_PAGE: Final = 100  # segments of up to 10,000 ids
GROUPS_AT_ONCE: Final = 32
PURGES_AT_ONCE: Final = 64


class Progress(msgspec.Struct):
    """What a run has done so far: `read` of the `total` keys of `bucket`; `unreadable` records and segments stay."""

    emails: int = 0
    unreadable: int = 0
    bucket: str = ""
    read: int = 0
    total: int = 0


class Retention:
    """Removes the emails without activity since `before`, or only counts them."""

    def __init__(
        self, connection: Connection, inbox: Inbox, before: datetime, report: Callable[[Progress], None]
    ) -> None:
        """Call `report` after each page."""
        self._connection = connection
        self._inbox = inbox
        self._recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
        self._index = Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET)
        self._reader = GroupReader(self._recipients, self._index)
        self._sealing = Sealing(self._recipients, self._index, before, self._removed)
        self._before = before
        self._report = report
        self._groups: set[int] = set()  # hashes, which need less memory than the keys
        self._purges = asyncio.Semaphore(PURGES_AT_ONCE)
        self.progress = Progress()

    def _removed(self, place: Place, emails: int) -> None:
        self.progress.emails += emails
        self._groups.add(hash(place.key))

    @property
    def groups(self) -> int:
        """The number of groups that emails were removed from."""
        return len(self._groups)

    async def bucket_bytes(self) -> dict[str, int]:
        """Return the size of both buckets.

        Raises:
            BucketMissing: one of them does not exist.
        """
        return {bucket.name: (await bucket.info()).state.bytes for bucket in (self._recipients, self._index)}

    async def preview(self) -> None:
        """Count the emails that are due."""
        async for page in self._pages(self._recipients):
            for stored in page:
                if _is_note(stored.key):
                    continue
                known = activity.of_record(stored.value)
                if known and known.last_at < self._before:
                    self.progress.emails += 1
                    self._groups.add(hash(known.group_id))
                self.progress.unreadable += not known

    async def remove(self) -> None:
        """Remove the emails of all groups, then those that are in no group, and the deletion markers."""
        async for page in self._pages(self._index, size=INDEX_PAGE, deleted=True):
            await self._remove_from_groups(page)
            await self._purge(self._index, page)
        async for page in self._pages(self._recipients, deleted=True):
            await self._remove_without_group(page)
            await self._purge(self._recipients, page)

    async def _pages(
        self, bucket: Bucket, *, size: int | None = None, deleted: bool = False
    ) -> AsyncIterator[list[Stored]]:
        async with BucketScan(self._connection, self._inbox, bucket, page=size, deleted=deleted) as scan:
            self.progress.bucket, self.progress.read, self.progress.total = bucket.name, 0, scan.total
            async for page in scan.pages(written_meanwhile=deleted):
                yield page
                self.progress.read += len(page)
                self._report(self.progress)

    async def _remove_from_groups(self, page: Sequence[Stored]) -> None:
        segments: dict[Place, tuple[str, ...]] = {}
        due: dict[Place, list[str]] = {}
        for stored in page:
            if stored.is_deleted:
                continue
            try:
                place = Place(group_index.first_key(stored.key), group_index.segment_number(stored.key))
                if not group_index.is_seal(stored.key):
                    segments[place] = group_index.decode(stored.value)
                elif seal.decode(stored.value).leaving:
                    due[place] = []
            except (decoding.Malformed, ValueError):  # also a key that is none of the index
                self.progress.unreadable += 1
        for place, email_id in await self._due(segments):
            due.setdefault(place, []).append(email_id)
        by_group: dict[str, dict[Place, list[str]]] = {}
        for place, email_ids in due.items():
            by_group.setdefault(place.key, {})[place] = email_ids
        slots = asyncio.Semaphore(GROUPS_AT_ONCE)
        await _together(self._remove_from_group(key, places, slots) for key, places in by_group.items())

    async def _due(self, segments: dict[Place, tuple[str, ...]]) -> list[tuple[Place, str]]:
        """Return the emails of the segments whose records are due, with their places."""
        listed = [
            (place, one)
            for place, ids in segments.items()
            for one in dict.fromkeys(ids)
            if group_index.is_email_id(one)
        ]
        found = []
        for start in range(0, len(listed), RECORDS_AT_ONCE):
            some = listed[start : start + RECORDS_AT_ONCE]
            entries = await self._recipients.get_many([email_id for _, email_id in some])
            due = {one for one, entry in entries.items() if self._sealing.is_due(entry.value)}
            found += [(place, email_id) for place, email_id in some if email_id in due]
        return found

    async def _remove_from_group(self, key: str, places: dict[Place, list[str]], slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                repeated = _repeated(await self._reader.segments_of(key)) if any(places.values()) else frozenset()
                for place, email_ids in places.items():
                    if due := [one for one in email_ids if one not in repeated]:
                        await self._sealing.remove(place, due)
                    else:
                        await self._sealing.complete(place)
            except KeyMissing:  # deleted meanwhile
                return
            except IndexCorrupt:
                self.progress.unreadable += 1
            except RevisionConflict as conflict:
                raise StoreUnavailable(f"{conflict}, at each try of retention to write") from conflict

    async def _remove_without_group(self, page: Sequence[Stored]) -> None:
        """Delete the records that are due and that no group lists, so that they are in no count."""
        by_group: dict[str, list[Stored]] = {}
        for stored in page:
            if stored.is_deleted or _is_note(stored.key):
                continue
            known = activity.of_record(stored.value)
            if known is None:
                self.progress.unreadable += 1
            elif known.last_at < self._before:
                by_group.setdefault(known.group_id, []).append(stored)
        for group_id, due in by_group.items():
            try:
                listed = _members((await self._reader.segments(group_id)).values())
            except KeyMissing:
                listed = set()
            except IndexCorrupt:
                continue
            await _together(self._delete(stored) for stored in due if stored.key not in listed)

    async def _delete(self, stored: Stored) -> None:
        async with self._purges:
            try:
                await self._recipients.delete(stored.key, stored.revision)
            except RevisionConflict:  # an event came, or another run has deleted it
                return
            self.progress.emails += 1

    async def _purge(self, bucket: Bucket, page: Iterable[Stored]) -> None:
        """Remove deletion markers: those of this run come at the end of the scan, being the latest writes."""

        async def purge(stored: Stored) -> None:
            async with self._purges:
                await bucket.purge(stored.key, stored.revision)

        await _together(purge(stored) for stored in page if stored.is_deleted)


async def _together(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all of the work at the same time; after an error cancel the rest and raise the error."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


def _is_note(key: str) -> bool:
    """Return whether this key holds a note of `erase`, which is not a record and stays."""
    return key.startswith(erasure.KEY_PREFIX)


def _members(segments: Iterable[Segment]) -> set[str]:
    return {one for segment in segments for one in (*segment.email_ids, *segment.seal.leaving)}


def _repeated(segments: dict[int, Segment]) -> frozenset[str]:
    """Return the ids that more than one segment lists. They stay: one that was sealed would be counted again."""
    if len(segments) == 1:
        return frozenset()
    times = Counter(one for segment in segments.values() for one in _members([segment]))
    return frozenset(one for one, count in times.items() if count > 1)

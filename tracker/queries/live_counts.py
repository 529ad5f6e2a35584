# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts of groups in memory, from their first query on, kept current from the streams of both buckets.

Replaces reading every record for every query: the second query of a group costs the same at any size of the group.
Before each answer, both streams have been followed up to their last write, and no key has left a bucket without one;
else all groups are counted again. While the streams cannot be followed, every query reads the records.

The memory holds MAX_EMAILS. A group that is being counted is never evicted for another one, nor one that was queried a
moment ago: two large groups that are queried in turn would evict each other each time. A group for which no space is
left is counted from its records at each query.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from shared import group_index
from shared.errors import StoreUnavailable
from shared.service.tasks import Tasks
from tracker.queries import counts
from tracker.queries.full_count import RECORDS_AT_ONCE, FullCount, read_records, size
from tracker.queries.group_counts import GroupCounts
from tracker.queries.seal import Segment
from tracker.queries.single_flight import SingleFlight
from tracker.queries.stream_follower import NotFollowed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.contract import GetEmailEngagementAnalyticsResponse
    from shared.kv.bucket import Bucket
    from tracker.queries.group_reader import GroupReader
    from tracker.queries.stream_follower import StreamFollower, Write

log = logging.getLogger(__name__)

MAX_EMAILS: Final = 200_000  # of about 400 bytes each
IDLE_SECONDS: Final = 120.0  # without a query for so long a group is evicted; without any, no stream is followed
RECENT_SECONDS: Final = 10.0  # without a query for so long a group can be evicted for another one
INDEXES_READ_AT_ONCE: Final = 4
REFUSED_SECONDS: Final = 30.0  # before the next try, after the server did not create a consumer


class _NoSpace(Exception):
    """The memory has no space for the emails of the group."""

    def __init__(self, emails: int) -> None:
        super().__init__(emails)
        self.emails = emails


class Follow(Protocol):
    """Creates a follower of a bucket's stream."""

    def __call__(self, bucket: Bucket, on_write: Callable[[Write], object], *, values: bool) -> StreamFollower: ...  # noqa: D102


class _Group:
    """One group in memory; `changed` has the numbers of the index segments to read, None means all of them.

    `lost`: a record is missing. Since its segment was read, `retention` may have moved the email into the seal.
    """

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.key = group_index.key_of(group_id)
        self.segments: dict[int, Segment] = {}
        self.changed: set[int] | None = None
        self.lost = False
        self.counts = GroupCounts()
        self.queried_at = 0.0


class LiveCounts:
    """Returns the counts of groups as of the moment of the query."""

    def __init__(self, reader: GroupReader, recipients: Bucket, index: Bucket, follow: Follow) -> None:
        """Follow no stream before the first query."""
        self._reader = reader
        self._recipients = recipients
        self._index = index
        self._follow_index = follow(index, self._segment_written, values=False)
        self._followers = (follow(recipients, self._record_written, values=True), self._follow_index)
        self._groups: OrderedDict[str, _Group] = OrderedDict()  # by key; the last queried one is at the end
        self._by_email: dict[str, _Group] = {}
        self._counting: SingleFlight[GetEmailEngagementAnalyticsResponse] = SingleFlight()
        self._index_reads = asyncio.Semaphore(INDEXES_READ_AT_ONCE)
        self._full_count = FullCount(reader, recipients, self._index_reads)
        self._starting = asyncio.Lock()
        self._refused_until = 0.0
        self._is_refused = False
        self._idle: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Return the number of emails in memory."""
        return len(self._by_email)

    async def aclose(self) -> None:
        """Stop following the streams and evict all groups."""
        if self._idle:
            self._idle.cancel()
        self._counting.cancel()
        await self._unfollow()

    async def count(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Return the counts of a group.

        Raises:
            KeyMissing: no email was sent under it.
            IndexCorrupt: its index cannot be read.
            StoreUnavailable: KV does not answer.
        """
        self._reader.check(group_id)
        self._restart_idle_timer()
        key = group_index.key_of(group_id)
        if key in self._groups:
            self.hits += 1
        else:
            self.misses += 1
        return await self._counting.run(key, partial(self._count, group_id))

    async def _count(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Count a group. An error is dropped before the next try.

        Its traceback has the frames of the failed try, and these keep the emails that were read: both tries together
        would take twice the memory.
        """
        emails = 0
        for is_last in (False, True):
            try:
                return await self._current(group_id)
            except _NoSpace as error:
                emails = error.emails
                break
            except StoreUnavailable as error:  # most likely a gap: count again, once
                if is_last and not isinstance(error, NotFollowed):
                    raise
                if not (is_last or self._is_refused):
                    log.info("analytics.recounted", extra={"error": str(error)})
        return await self._full_count(group_id, emails)

    async def _current(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        await self._follow()
        await asyncio.gather(*(follower.caught_up() for follower in self._followers))
        group = self._group(group_id)
        try:
            await self._read_changed(group)
            while group.lost:
                await self._find_lost(group)
        except BaseException:
            self._evict(group)
            raise
        self._check_not_evicted(group)
        self._evict_old()
        return group.counts.response(group_id)

    async def _follow(self) -> None:
        """Follow both streams, if one of them is not followed.

        Raises:
            NotFollowed: the server does not create consumers, or did not some seconds ago.
        """
        async with self._starting:
            if not any(follower.is_lost for follower in self._followers):
                return
            if time.monotonic() < self._refused_until:
                raise NotFollowed("consumers were refused")
            try:
                await self._restart()
            except NotFollowed as error:
                self._refused_until = time.monotonic() + REFUSED_SECONDS
                if not self._is_refused:
                    log.warning("analytics.not_followed", extra={"error": str(error)})
                self._is_refused = True
                raise
            if self._is_refused:
                log.info("analytics.followed")
            self._is_refused = False

    async def _restart(self) -> None:
        """Evict all groups and follow both streams again: a gap in one of them makes all counts uncertain."""
        self._evict_all()
        for follower in self._followers:
            await follower.stop()
            await follower.start()

    def _group(self, group_id: str) -> _Group:
        key = group_index.key_of(group_id)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(group_id)
        self._groups.move_to_end(key)
        group.queried_at = time.monotonic()
        return group

    async def _read_changed(self, group: _Group) -> None:
        """Read the changed segments of the index, and the records of the new emails."""
        changed, group.changed = group.changed, set()
        if changed is not None and not changed:
            return
        async with self._index_reads:
            segments = await self._read_segments(group, changed) if changed is not None else None
            if segments is None:
                nothing = dict.fromkeys(group.segments, Segment())
                segments = nothing | await self._reader.segments(group.group_id)
            new = self._add(group, segments)
        for start in range(0, len(new), RECORDS_AT_ONCE):
            self._check_not_evicted(group)
            batch = new[start : start + RECORDS_AT_ONCE]
            group.lost |= not await read_records(self._recipients, batch, group.counts)

    async def _read_segments(self, group: _Group, numbers: set[int]) -> dict[int, Segment] | None:
        """Return these segments; None if one of them cannot be read, or was deleted, perhaps with the whole group."""
        segments = {}
        for number in numbers:
            segment = await self._reader.segment(group.key, number)
            if segment is None:
                return None
            segments[number] = segment
        return segments

    async def _find_lost(self, group: _Group) -> None:
        """Read the seals that were written before the records were deleted."""
        group.lost = False
        await self._follow_index.caught_up()
        if group.changed:
            await self._read_changed(group)

    def _add(self, group: _Group, segments: Mapping[int, Segment]) -> list[str]:
        """Add the emails of segments before their records are read, so that no write is missed; return the new ones.

        Raises:
            NotFollowed: the group was evicted.
            _NoSpace: they do not fit into the memory.
        """
        self._check_not_evicted(group)
        added = size(segments.values()) - size(group.segments.get(number, Segment()) for number in segments)
        self._make_space(added, len(group.counts) + added)
        group.segments.update(segments)
        change = group.counts.put_segments(segments)
        for email_id in change.removed:
            self._forget(group, email_id)
        self._by_email.update(dict.fromkeys(change.new, group))
        return change.new

    def _check_not_evicted(self, group: _Group) -> None:
        """Raise if the group was evicted after a gap while it was being counted: its writes are no longer followed."""
        if self._groups.get(group.key) is not group:
            raise NotFollowed("the group was evicted while it was being counted")

    def _record_written(self, write: Write) -> bool:
        """Count a write; return whether the record was known before."""
        group = self._by_email.get(write.key)
        if group is None:
            return False
        if write.value is None:
            group.lost |= not group.counts.is_leaving(write.key, write.previous)
            return group.counts.put(write.key, write.revision, None)
        return group.counts.put(write.key, write.revision, counts.of_record(write.value))

    def _segment_written(self, write: Write) -> bool:
        """Note a changed segment or seal; return whether it is a segment that was known before."""
        group = self._groups.get(group_index.first_key(write.key))
        if group is None:
            return False
        number = group_index.segment_number(write.key)
        if group.changed is not None:
            group.changed.add(number)
        return number in group.segments and not group_index.is_seal(write.key)

    def _make_space(self, added: int, emails: int) -> None:
        """Evict groups until the added emails of a group fit; none that is counted now or was queried recently.

        Raises:
            _NoSpace: they do not fit even then. Nothing was evicted. It has the number of `emails` of the group.
        """
        missing = len(self._by_email) + added - MAX_EMAILS
        victims: list[_Group] = []
        for group in self._groups.values():
            if missing <= 0 or time.monotonic() - group.queried_at < RECENT_SECONDS:
                break
            if group.key not in self._counting:
                victims.append(group)
                missing -= len(group.counts)
        if missing > 0:
            raise _NoSpace(emails)
        for group in victims:
            self._evict(group)

    def _evict_old(self) -> None:
        """Evict the groups that are idle, and the longest unqueried ones while there are more than MAX_EMAILS."""
        while oldest := next((one for one in self._groups.values() if one.key not in self._counting), None):
            if time.monotonic() - oldest.queried_at < IDLE_SECONDS and len(self._by_email) <= MAX_EMAILS:
                return
            self._evict(oldest)

    def _evict(self, group: _Group) -> None:
        if self._groups.get(group.key) is group:
            del self._groups[group.key]
        for email_id in group.counts:
            self._forget(group, email_id)

    def _forget(self, group: _Group, email_id: str) -> None:
        if self._by_email.get(email_id) is group:  # else the group was counted again meanwhile
            del self._by_email[email_id]

    def _evict_all(self) -> None:
        self._groups.clear()
        self._by_email.clear()

    def _restart_idle_timer(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._stop_following)

    def _stop_following(self) -> None:
        if self._counting:
            self._restart_idle_timer()
            return
        log.debug("analytics.unfollowed")
        self._tasks.start(self._unfollow())

    async def _unfollow(self) -> None:
        async with self._starting:
            self._evict_all()
            for follower in self._followers:
                await follower.stop()

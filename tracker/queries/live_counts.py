# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts of the groups that were asked for, kept current from the buckets' own streams.

Replaces reading every record for every question: the second question costs the same at any size of group. Before each
answer both streams are proven to be followed up to their last write; after any gap everything is counted anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from shared import group_index, redaction
from shared.errors import StoreUnavailable
from shared.service.tasks import Tasks
from tracker.queries import counts as analytics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.contract import GetEmailEngagementAnalyticsResponse
    from shared.kv.bucket import Bucket
    from tracker.queries.group_reader import GroupReader
    from tracker.queries.stream_follower import StreamFollower, Write

log = logging.getLogger(__name__)

MAX_EMAILS: Final = 200_000  # of about 400 bytes each
IDLE_SECONDS: Final = 120.0  # without a question for so long, a group is forgotten; without any, nothing is followed
LOADED_AT_ONCE: Final = 1000


class _TooLarge(Exception):
    pass


class Follow(Protocol):
    """Makes a follower of a bucket's stream."""

    def __call__(self, bucket: Bucket, on_write: Callable[[Write], None], *, values: bool) -> StreamFollower: ...  # noqa: D102


class _Group:
    """What is known of one group; `changed` names the segments of its index to read, None all of them."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.key = group_index.key_of(group_id)
        self.segments: dict[str, tuple[str, ...]] = {}
        self.changed: set[str] | None = None
        self.counts = analytics.Counts()
        self.asked_at = 0.0
        self.busy = asyncio.Lock()


class LiveCounts:
    """Answers analytics as of the moment of the question."""

    def __init__(self, reader: GroupReader, recipients: Bucket, index: Bucket, follow: Follow) -> None:
        """Follow nothing before somebody asks."""
        self._reader = reader
        self._recipients = recipients
        self._index = index
        self._followers = (
            follow(recipients, self._record_written, values=True),
            follow(index, self._segment_written, values=False),
        )
        self._groups: OrderedDict[str, _Group] = OrderedDict()  # by key; the one asked for last is at the end
        self._by_email: dict[str, _Group] = {}
        self._starting = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self.hits = self.misses = 0

    def __len__(self) -> int:
        """Return how many emails are kept count of."""
        return len(self._by_email)

    async def aclose(self) -> None:
        """Follow no longer, forget everything."""
        if self._idle:
            self._idle.cancel()
        self._groups.clear()
        self._by_email.clear()
        for follower in self._followers:
            await follower.stop()

    async def count(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Return the counts of a group.

        Raises:
            KeyMissing: nothing was ever sent under it.
            IndexCorrupt: its index cannot be read.
            StoreUnavailable: KV does not answer.
        """
        self._reader.check(group_id)
        self._stay_awake()
        try:
            try:
                return await self._current(group_id)
            except StoreUnavailable as error:  # most likely a gap; then everything is counted anew, once
                log.info("analytics.recounted", extra={"error": str(error)})
                return await self._current(group_id)
        except _TooLarge:
            return await self._count_and_forget(group_id)

    async def _current(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        await self._follow()
        group = self._group(group_id)
        async with group.busy:
            try:
                await asyncio.gather(*(follower.caught_up() for follower in self._followers))
                await self._read_changed(group)
            except BaseException:
                self._forget(group)
                raise
            self._insist_on(group)
            self._forget_some(kept=group)
            return group.counts.response(group_id)

    async def _follow(self) -> None:
        async with self._starting:
            for follower in self._followers:
                if follower.is_lost:
                    await self._start_anew()
                    return

    async def _start_anew(self) -> None:
        """A gap in one stream makes what was counted from both worthless."""
        self._groups.clear()
        self._by_email.clear()
        for follower in self._followers:
            await follower.stop()
            await follower.start()

    def _group(self, group_id: str) -> _Group:
        key = group_index.key_of(group_id)
        group = self._groups.get(key)
        if group is None:
            self.misses += 1
            group = self._groups[key] = _Group(group_id)
        else:
            self.hits += 1
        self._groups.move_to_end(key)
        group.asked_at = asyncio.get_running_loop().time()
        return group

    async def _read_changed(self, group: _Group) -> None:
        """Read what of the index has changed, and the records of the emails that have come."""
        changed, group.changed = group.changed, set()
        if changed is None:
            segments = await self._reader.segments(group.group_id)
        else:
            segments = {key: await self._reader.segment(key) for key in changed}
        if sum(map(len, (group.segments | segments).values())) > MAX_EMAILS:
            raise _TooLarge
        for key, email_ids in segments.items():
            known = group.segments.get(key, ())
            if email_ids[: len(known)] != known:
                raise StoreUnavailable(f"index segment {redaction.identifier(key)} was rewritten")
            group.segments[key] = email_ids
            await self._load(group, email_ids[len(known) :])

    def _insist_on(self, group: _Group) -> None:
        """Let no question go on with a group that was forgotten meanwhile: what is written goes to another one."""
        if self._groups.get(group.key) is not group:
            raise StoreUnavailable("lost track while counting")

    async def _load(self, group: _Group, email_ids: Sequence[str]) -> None:
        self._insist_on(group)
        new = group.counts.add(email_ids)
        self._by_email.update(dict.fromkeys(new, group))  # before loading: what is written meanwhile is not missed
        await self._read_records(group.counts, new)

    async def _count_and_forget(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        counts = analytics.Counts()
        await self._read_records(counts, counts.add(await self._reader.email_ids(group_id)))
        return counts.response(group_id)

    async def _read_records(self, counts: analytics.Counts, email_ids: Sequence[str]) -> None:
        for start in range(0, len(email_ids), LOADED_AT_ONCE):
            entries = await self._recipients.get_many(email_ids[start : start + LOADED_AT_ONCE])
            for email_id, entry in entries.items():
                counts.put(email_id, entry.revision, analytics.tally(entry.value))

    def _record_written(self, write: Write) -> None:
        group = self._by_email.get(write.key)
        if group is not None:
            group.counts.put(write.key, write.revision, analytics.tally(write.value))

    def _segment_written(self, write: Write) -> None:
        group = self._groups.get(group_index.first_key(write.key))
        if group is not None and group.changed is not None:
            group.changed.add(write.key)

    def _forget_some(self, *, kept: _Group) -> None:
        """Forget the groups that were asked for longest ago: those that are idle, and more where there is no room."""
        while (oldest := next(iter(self._groups.values()))) is not kept:
            if kept.asked_at - oldest.asked_at < IDLE_SECONDS and len(self._by_email) <= MAX_EMAILS:
                return
            self._forget(oldest)

    def _forget(self, group: _Group) -> None:
        if self._groups.get(group.key) is group:
            del self._groups[group.key]
        for email_id in chain.from_iterable(group.segments.values()):
            if self._by_email.get(email_id) is group:  # and not the one that was counted anew meanwhile
                del self._by_email[email_id]

    def _stay_awake(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._fall_asleep)

    def _fall_asleep(self) -> None:
        log.debug("analytics.unfollowed")
        self._tasks.start(self.aclose())

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts a group from its index and all its records, without keeping anything: large groups one after another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tracker.queries import counts
from tracker.queries.group_counts import GroupCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shared.contract import GetEmailEngagementAnalyticsResponse
    from shared.kv.bucket import Bucket
    from tracker.queries.group_reader import GroupReader
    from tracker.queries.seal import Segment

RECORDS_AT_ONCE: Final = 1000
SMALL_EMAILS: Final = 10_000  # groups up to this size are counted beside others
SMALL_GROUPS_AT_ONCE: Final = 8


class FullCount:
    """Returns the counts of a group."""

    def __init__(self, reader: GroupReader, recipients: Bucket, index_reads: asyncio.Semaphore) -> None:
        """Read an index while `index_reads` allows it."""
        self._reader = reader
        self._recipients = recipients
        self._index_reads = index_reads
        self._small_groups = asyncio.Semaphore(SMALL_GROUPS_AT_ONCE)
        self._large_group = asyncio.Lock()

    async def __call__(self, group_id: str, emails: int) -> GetEmailEngagementAnalyticsResponse:
        """Count a group. It had so many emails when it was last read, 0 if it was not read."""
        if emails <= SMALL_EMAILS:
            async with self._small_groups:
                segments = await self._segments(group_id)
                if size(segments.values()) <= SMALL_EMAILS:
                    return await self._counted(group_id, segments)
                segments.clear()  # they would stay in memory while other large groups are counted
        async with self._large_group:
            return await self._counted(group_id, await self._segments(group_id))

    async def _segments(self, group_id: str) -> dict[int, Segment]:
        async with self._index_reads:
            return await self._reader.segments(group_id)

    async def _counted(self, group_id: str, segments: Mapping[int, Segment]) -> GetEmailEngagementAnalyticsResponse:
        """Count the records of the segments; if one is missing, its email may be in a newer seal."""
        group = GroupCounts()
        while not await self._read(group.put_segments(segments).new, group):
            segments = await self._segments(group_id)
        return group.response(group_id)

    async def _read(self, email_ids: Sequence[str], group: GroupCounts) -> bool:
        found_all = True
        for start in range(0, len(email_ids), RECORDS_AT_ONCE):
            found_all &= await read_records(self._recipients, email_ids[start : start + RECORDS_AT_ONCE], group)
        return found_all


async def read_records(recipients: Bucket, email_ids: Sequence[str], group: GroupCounts) -> bool:
    """Count the records of at most RECORDS_AT_ONCE emails of a group; return whether all were there."""
    entries = await recipients.get_many(email_ids)
    for email_id, entry in entries.items():
        group.put(email_id, entry.revision, counts.of_record(entry.value))
    return len(entries) == len(email_ids)


def size(segments: Iterable[Segment]) -> int:
    """Return of how many emails there are ids in segments."""
    return sum(len(segment.email_ids) + len(segment.seal.leaving) for segment in segments)

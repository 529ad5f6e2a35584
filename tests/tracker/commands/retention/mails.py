# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Emails in the buckets of a real server: writes and counts them as relays and trackers do; asserts nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from shared import contract, group_index
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.tracker.examples import record
from tracker.events import records
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from shared.contract import GetEmailEngagementAnalyticsResponse
    from shared.nats.connection import Connection

RECENT = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
OLD = RECENT - timedelta(days=400)
WRITES_AT_ONCE = 100


class Mails:
    """Both buckets, and the counts of a tracker."""

    def __init__(self, connection: Connection, inbox: Inbox) -> None:
        self.recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
        self.index = Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET)
        self.reader = GroupReader(self.recipients, self.index)
        follow = partial(StreamFollower, connection, inbox)
        self.live = LiveCounts(self.reader, self.recipients, self.index, follow)
        self.connected = connection, inbox
        self._slots = asyncio.Semaphore(WRITES_AT_ONCE)

    async def send(self, group_id: str, emails: Sequence[dict[str, Any]], segment_sizes: Sequence[int] = ()) -> None:
        """Write records, and their ids into segments of these sizes, the rest into one."""
        ids = [f"{group_index.key_of(group_id).strip('=')}-{number:05}" for number in range(len(emails))]
        await asyncio.gather(
            *(self.write(one, group_id=group_id, **fields) for one, fields in zip(ids, emails, strict=True))
        )
        sizes = [*segment_sizes, len(ids) - sum(segment_sizes)]
        for number, size in enumerate(sizes):
            key = group_index.segment_key(group_index.key_of(group_id), number)
            await self.index.create(key, group_index.encode(ids[:size]))
            ids = ids[size:]

    async def write(self, email_id: str, **fields: Any) -> None:
        """Write one record."""
        async with self._slots:
            await self.recipients.create(email_id, records.encode(record(email_id=email_id, **fields)))

    async def counts(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Count a group as a tracker that starts now."""
        return await self.live._full_count(group_id, 0)  # noqa: SLF001 - the way of a group that is too large


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Mails]:
    """Create the buckets as the process does."""
    async with nats_connection.opened(ProcessSettings(nats_url=url), "test") as connection, Inbox(connection) as inbox:
        await create_missing(connection, [contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET])
        mails = Mails(connection, inbox)
        yield mails
        await mails.live.aclose()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts in memory behind a proxy, and writers that do not use it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy as proxies
from tests.tracker.queries.counting import INDEX, RECORDS, Writers
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[NatsProxy]:
    """A proxy between the tracker and the server."""
    async with proxies.running(nats.url) as proxy:
        yield proxy


@pytest.fixture
async def followed(proxy: NatsProxy) -> AsyncIterator[Connection]:
    """The tracker's connection, through the proxy."""
    async with nats_connection.opened(ProcessSettings(nats_url=proxy.url), "tracker") as connection:
        await create_missing(connection, [RECORDS, INDEX])
        yield connection


@pytest.fixture
async def counts(followed: Connection) -> AsyncIterator[LiveCounts]:
    """The counts under test."""
    async with Inbox(followed) as inbox:
        recipients, index = Bucket(inbox, followed, RECORDS), Bucket(inbox, followed, INDEX)
        counts = LiveCounts(GroupReader(recipients, index), recipients, index, partial(StreamFollower, followed, inbox))
        yield counts
        await counts.aclose()


@pytest.fixture
def writers(connection: Connection) -> Writers:
    """Writers that do not use the proxy."""
    return Writers(connection.client.jetstream(), seed=0)

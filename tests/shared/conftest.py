# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Real servers, and the connections and buckets of the shared package on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nats
import pytest

from shared.kv.bucket import Bucket
from shared.nats import connection
from shared.nats.inbox import Inbox
from tests.shared.connections import connected
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js.kv import KeyValue

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the connection retry after 0.05 s instead of a second."""
    monkeypatch.setattr(connection, "RECONNECT_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(connection, "ERROR_LOG_SECONDS", 0)


@pytest.fixture
async def nats_server() -> AsyncIterator[NatsServer]:
    """One nats-server with JetStream."""
    async with servers.running() as server:
        yield server


@pytest.fixture
async def nats_proxy(nats_server: NatsServer) -> AsyncIterator[NatsProxy]:
    """A proxy in front of the nats-server."""
    async with proxies.running(nats_server.url) as proxy:
        yield proxy


@pytest.fixture
async def nats_cluster() -> AsyncIterator[list[NatsServer]]:
    """Three nats-servers, one JetStream, and an account that needs a password."""
    async with servers.cluster(config_extra="authorization { user: relay, password: s3cret }") as cluster:
        yield cluster


@pytest.fixture
async def nats_connection(nats_proxy: NatsProxy) -> AsyncIterator[Connection]:
    """A connection of the shared package, through the proxy."""
    async with connected(nats_proxy.url) as opened:
        yield opened


@pytest.fixture
async def kv(nats_server: NatsServer) -> AsyncIterator[KeyValue]:
    """The bucket `b`, through nats-py and without the proxy."""
    async with await nats.connect(nats_server.url) as client:
        yield await client.jetstream().create_key_value(bucket="b", history=1, direct=True)


@pytest.fixture
async def bucket(kv: KeyValue, nats_connection: Connection) -> AsyncIterator[Bucket]:
    """The bucket `b`, through the shared package and the proxy."""
    assert kv
    async with Inbox(nats_connection) as inbox:
        yield Bucket(inbox, nats_connection, "b")

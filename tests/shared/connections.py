# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Connections and inboxes of the shared package, opened on a test's server, and waiting for a state of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import nats

from shared.nats import connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import pytest

    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer


def connected(url: str, creds: str = "") -> AbstractAsyncContextManager[Connection]:
    """Connect as a process does."""
    return connection.opened(ProcessSettings(nats_url=url, nats_creds=creds), "tests")


def as_user(url: str, user_info: str) -> str:
    """Put user and password into a URL."""
    return url.replace("nats://", f"nats://{user_info}@")


@asynccontextmanager
async def with_inbox(url: str) -> AsyncIterator[tuple[Connection, Inbox]]:
    """Connect, and open an inbox."""
    async with connected(url) as opened, Inbox(opened) as box:
        yield opened, box


@asynccontextmanager
async def opening(url: str, creds: str = "") -> AsyncIterator[asyncio.Future[Connection]]:
    """Connect in the background; the future gets the connection when a server has accepted it."""
    done: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def connect() -> None:
        async with connected(url, creds) as it:
            done.set_result(it)
            await asyncio.Event().wait()

    task = asyncio.create_task(connect())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.wait([task])


async def publish(server: NatsServer, subject: str, *payloads: bytes) -> None:
    """Publish with a client of nats-py."""
    async with await nats.connect(server.url) as publisher:
        for payload in payloads:
            await publisher.publish(subject, payload)
        await publisher.flush()


async def received(connection: Connection, subject: str) -> list[bytes]:
    """Subscribe; each message is added to the list that is returned."""
    payloads: list[bytes] = []
    await connection.subscribe(subject, lambda msg: payloads.append(msg.data))
    await connection.flush()
    return payloads


def events(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return the field `error` of each log line of an event."""
    return [str(getattr(record, "error", "")) for record in caplog.records if record.msg == event]


def has_reconnected(connected: Connection) -> bool:
    """Return whether the connection was lost and is there again."""
    return connected.connected and connected.client.stats["reconnects"] > 0


def was_never_lost(connected: Connection) -> bool:
    """Return whether the first server is still connected."""
    return connected.connected and connected.client.stats["reconnects"] == 0

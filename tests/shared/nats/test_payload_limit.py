# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A nats-server whose max_payload is lowered or raised while it runs: each request has one reply."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import nats
import pytest

from shared.errors import ValueTooLarge
from shared.nats import payload_limit
from shared.nats.endpoint import TOO_LARGE, Endpoint
from shared.nats.inbox import Inbox
from tests.shared.connections import connected, events, has_reconnected, received, was_never_lost
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers
from tests.stack import probe
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("impatience")

SUBJECT = "lfx.email-service.test"
LOW, HIGH = "max_payload: 50KB", "max_payload: 1MB"
INFO = {"server_id": "s", "version": "2.11.0", "max_payload": 1_000_000, "headers": True}


@pytest.fixture
def always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the server for its limit before each large message."""
    monkeypatch.setattr(payload_limit, "FRESH_SECONDS", 0.0)


@pytest.fixture
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the server for its limit only when it connects, as if it had just been asked."""
    monkeypatch.setattr(payload_limit, "LARGE_BYTES", 10_000_000)


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """A server with the default limit."""
    async with servers.running(HIGH) as running:
        yield running


@pytest.fixture
async def ours(server: NatsServer) -> AsyncIterator[Connection]:
    """Our connection."""
    async with connected(server.url) as opened:
        yield opened


@pytest.fixture
async def caller(server: NatsServer) -> AsyncIterator[Client]:
    """A caller."""
    async with await nats.connect(server.url, reconnect_time_wait=0.05) as client:
        yield client


async def sized(data: bytes, _headers: object) -> bytes:
    """Answer with as many bytes as the request asks for."""
    return b"x" * int(data)


async def ask(caller: Client, size: int) -> bytes:
    return bytes((await caller.request(SUBJECT, b"%d" % size, timeout=10)).data)


@pytest.mark.usefixtures("always_asked")
async def test_a_reply_over_a_limit_that_was_lowered_is_an_error_and_the_connection_stays(
    server: NatsServer, ours: Connection, caller: Client
) -> None:
    async with Endpoint(ours, SUBJECT, sized, max_in_flight=10):
        assert len(await ask(caller, 100_000)) == 100_000
        await server.load(LOW)
        assert await ask(caller, 100_000) == TOO_LARGE
        assert len(await ask(caller, 40_000)) == 40_000
        await server.load(HIGH)
        assert len(await ask(caller, 100_000)) == 100_000
        assert was_never_lost(ours)


@pytest.mark.usefixtures("never_asked")
async def test_a_reply_that_makes_the_server_close_the_connection_is_replaced_by_one_error(
    server: NatsServer, ours: Connection, caller: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with Endpoint(ours, SUBJECT, sized, max_in_flight=10), connected(server.url) as other:
        replies = await received(other, "replies.*")
        await server.load(LOW)
        for size in (100_000, 2_000):
            await caller.publish(SUBJECT, b"%d" % size, reply=f"replies.{size}")
            await until(lambda: len(replies), (1).__le__)
            await until(lambda: has_reconnected(ours))
        await until(lambda: len(replies), (2).__eq__)
        assert replies[0] == TOO_LARGE
        assert await ask(caller, 100_000) == TOO_LARGE
        assert len(replies) == 2
        assert ours.client.stats["reconnects"] == 1
    assert any("Maximum Payload Violation" in error for error in events(caplog, "nats.error"))


@pytest.mark.usefixtures("always_asked")
async def test_a_message_that_waits_and_is_too_large_for_the_next_server_is_dropped(
    server: NatsServer, caller: Client
) -> None:
    answering = asyncio.Event()

    async def late(data: bytes, headers: object) -> bytes:
        await answering.wait()
        return await sized(data, headers)

    async with (
        proxies.running(server.url) as proxy,
        connected(proxy.url) as ours,
        Endpoint(ours, SUBJECT, late, max_in_flight=10) as endpoint,
    ):
        asked = [asyncio.create_task(ask(caller, size)) for size in (100_000, 2_000)]
        await until(lambda: endpoint.in_flight, (2).__eq__)
        await proxy.stop()
        await until(lambda: not ours.connected)
        answering.set()
        await until(lambda: ours.client.pending_data_size, (102_000).__lt__)
        await server.load(LOW)
        await proxy.start()
        assert await asked[0] == TOO_LARGE
        assert len(await asked[1]) == 2_000
        assert ours.client.stats["reconnects"] == 1


@pytest.mark.usefixtures("always_asked")
async def test_a_request_over_a_limit_that_was_lowered_is_not_sent(server: NatsServer, ours: Connection) -> None:
    async with Inbox(ours) as box, connected(server.url) as other, Endpoint(other, SUBJECT, sized, max_in_flight=1):
        payload = b"1".rjust(100_000)
        assert (await box.request(SUBJECT, payload)).data == b"x"
        await server.load(LOW)
        with pytest.raises(ValueTooLarge):
            await box.request(SUBJECT, payload)
        await server.load(HIGH)
        assert (await box.request(SUBJECT, payload)).data == b"x"
        assert was_never_lost(ours)


async def test_small_messages_and_a_known_limit_need_no_question(server: NatsServer, ours: Connection) -> None:
    opened = await total_connections(server)
    assert await ours.payload_limit(payload_limit.LARGE_BYTES) == 1_048_576
    assert await total_connections(server) == opened
    limits = await asyncio.gather(*(ours.payload_limit(100_000) for _ in range(100)))
    assert set(limits) == {1_048_576}
    assert await total_connections(server) == opened + 1


async def total_connections(server: NatsServer) -> int:
    """Return how many connections the server has accepted."""
    _, body = await probe.get(server.monitor_port, "/varz")
    return int(json.loads(body)["total_connections"])


@asynccontextmanager
async def scripted(*later: bytes, silent: bool = False) -> AsyncIterator[str]:
    """Run a server that sends lines after CONNECT; `silent`: it does not greet connections after the first one."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1 or not silent:
            writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n" + b"".join(later))
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield f"nats://127.0.0.1:{running.sockets[0].getsockname()[1]}"


@pytest.mark.usefixtures("always_asked")
async def test_the_limit_of_a_later_info_is_used() -> None:
    async with scripted(b'INFO {"max_payload": 2000}\r\n') as url, connected(url) as ours:
        await until(lambda: ours.max_payload, (2000).__eq__)
        assert await ours.payload_limit(100_000) == 2000, "that of the user, below the one for all"


async def test_a_server_that_does_not_answer_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_limit, "GREETING_SECONDS", 0.05)
    async with scripted(silent=True) as url, connected(url) as ours:
        assert await ours.payload_limit(100_000) == 1_000_000
        monkeypatch.setattr(payload_limit, "GREETING_SECONDS", 600)  # it is not asked again before a minute is over
        async with asyncio.timeout(20):
            await asyncio.gather(*(ours.payload_limit(100_000) for _ in range(100)))

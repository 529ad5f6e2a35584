# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The limit on the bytes of the requests in flight, over a real nats-server."""

from __future__ import annotations

import asyncio
import collections
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nats

from shared.nats import endpoint
from shared.nats.connection import Connection
from shared.nats.endpoint import BUSY, ByteLimit, Endpoint, Flood
from tests.shared.connections import connected, events
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

SUBJECT = "lfx.email-service.test"
LARGE = b"x" * 900_000


class Stalled:
    """A handler that answers with the size of a request once it may."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun: list[int] = []

    async def __call__(self, data: bytes, _headers: object) -> bytes:
        """Answer one request."""
        size = len(data)
        del data
        self.begun.append(size)
        await self.may_end.wait()
        return b"%d" % size


class Asked:
    """Requests of one caller, and their replies."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.replies: dict[str, list[bytes]] = collections.defaultdict(list)
        self._inbox = client.new_inbox()
        self._asked = 0

    async def subscribe(self) -> None:
        """Receive the replies."""

        async def collect(msg: Msg) -> None:
            self.replies[msg.subject].append(msg.data)

        await self.client.subscribe(f"{self._inbox}.*", cb=collect)

    async def ask(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a request."""
        await self.client.publish(SUBJECT, data, f"{self._inbox}.{self._asked}", headers)
        self._asked += 1

    @property
    def counts(self) -> collections.Counter[bytes]:
        """How often each reply came."""
        return collections.Counter(reply for replies in self.replies.values() for reply in replies)


@asynccontextmanager
async def serving(
    server: NatsServer, handler: Stalled, limit: ByteLimit, url: str = ""
) -> AsyncIterator[tuple[Connection, Endpoint, Asked]]:
    """Serve at most `limit` bytes, and be their caller."""
    async with (
        connected(url or server.url) as ours,
        Endpoint(ours, SUBJECT, handler, max_in_flight=1000, byte_limit=limit) as served,
        await nats.connect(server.url) as client,
    ):
        asked = Asked(client)
        await asked.subscribe()
        try:
            yield ours, served, asked
        finally:
            handler.may_end.set()


async def test_requests_above_the_limit_are_refused_and_each_gets_one_reply(nats_server: NatsServer) -> None:
    handler, limit = Stalled(), ByteLimit(1_000_000)
    async with serving(nats_server, handler, limit) as (_, served, asked):
        await asked.ask(LARGE)
        await until(lambda: handler.begun)
        for _ in range(20):
            await asked.ask(LARGE)
            await asked.ask(b"small")
            await asked.ask(b"", {"Idempotency-Key": "a" * 200_000})
        await until(lambda: asked.counts.total() == 40)
        assert asked.counts == {BUSY: 40}
        assert (served.busy, limit.in_flight) == (40, len(LARGE) + 20 * len(b"small"))
        handler.may_end.set()
        await until(lambda: asked.counts.total() == 61)
        assert asked.counts == {BUSY: 40, b"900000": 1, b"5": 20}
        assert {len(replies) for replies in asked.replies.values()} == {1}
        assert limit.in_flight == 0


async def test_requests_in_flight_are_answered_after_the_server_has_closed_the_connection(
    nats_server: NatsServer, nats_proxy: NatsProxy
) -> None:
    handler, limit = Stalled(), ByteLimit(10_000_000)
    async with serving(nats_server, handler, limit, nats_proxy.url) as (ours, _, asked):
        for _ in range(5):
            await asked.ask(LARGE)
        await until(lambda: len(handler.begun) == 5)
        await nats_proxy.stop()
        await until(lambda: not ours.connected)
        handler.may_end.set()
        await until(lambda: limit.in_flight == 0)
        await nats_proxy.start()
        await until(lambda: asked.counts.total() == 5)
        assert asked.counts == {b"900000": 5}


async def test_a_large_request_begins_when_the_connection_was_read(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, limit, is_behind = Stalled(), ByteLimit(10_000_000), [True]
    monkeypatch.setattr(Connection, "is_behind", property(lambda _: is_behind[0]))
    monkeypatch.setattr(endpoint, "READ_FIRST_SECONDS", 60)
    async with serving(nats_server, handler, limit) as (_, _, asked):
        await asked.ask(LARGE)
        await asked.ask(b"small")
        await until(lambda: handler.begun)
        assert (handler.begun, limit.in_flight) == ([5], 900_005)
        is_behind[0] = False
        await until(lambda: handler.begun == [5, 900_000])


def test_more_bytes_than_can_be_served_are_a_flood_until_no_more_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    flood = Flood()
    seen = []
    for gap, count in ((0.01, 200), (0.002, 200)):  # 40 MB and 200 MB a second
        for _ in range(count):
            now[0] += gap
            flood.add(400_000)
        seen.append(bool(flood))
    now[0] += 0.021
    assert [*seen, bool(flood)] == [False, True, False]


async def test_large_requests_begin_when_a_flood_is_over(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, limit = Stalled(), ByteLimit(2 * len(LARGE))
    monkeypatch.setattr(endpoint, "FLOOD_BYTES", -1)
    monkeypatch.setattr(endpoint, "READ_FIRST_SECONDS", 60)
    async with serving(nats_server, handler, limit) as (_, _, asked):
        await asked.ask(LARGE)
        await asked.ask(b"small")
        await until(lambda: handler.begun)
        assert (handler.begun, limit.in_flight) == ([5], 900_005)
        monkeypatch.setattr(endpoint, "FLOOD_BYTES", len(LARGE))
        await until(lambda: handler.begun == [5, 900_000])


async def test_large_requests_begin_after_a_while_also_in_a_flood(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, limit = Stalled(), ByteLimit(2 * len(LARGE))
    monkeypatch.setattr(endpoint, "FLOOD_BYTES", -1)
    monkeypatch.setattr(endpoint, "READ_FIRST_SECONDS", 0.1)
    async with serving(nats_server, handler, limit) as (_, _, asked):
        await asked.ask(LARGE)
        await until(lambda: handler.begun == [900_000])


async def test_a_large_request_that_is_refused_or_ignored_is_not_read(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    handler, limit = Stalled(), ByteLimit(1_000_000)
    async with serving(nats_server, handler, limit) as (ours, served, asked):
        await asked.client.publish(SUBJECT, LARGE, reply="$KV.bucket.key")
        for _ in range(10):
            await asked.ask(LARGE)
        await until(lambda: asked.counts.total() == 9)
        assert (asked.counts, served.busy) == ({BUSY: 9}, 9)
        assert len(events(caplog, "request.ignored")) == 1
        assert len(LARGE) <= ours.client.stats["in_bytes"] < 2 * len(LARGE)


async def test_a_connection_with_unread_bytes_is_behind(nats_server: NatsServer) -> None:
    async with connected(nats_server.url) as ours, await nats.connect(nats_server.url) as client:
        assert not ours.is_behind
        await ours.subscribe("flood", lambda _: None)
        await ours.flush()
        transport: Any = ours.client._transport  # noqa: SLF001 - takes the place of a busy process
        transport._io_writer.transport.pause_reading()  # noqa: SLF001
        for _ in range(3):
            await client.publish("flood", LARGE)
        await until(lambda: ours.is_behind)
        transport._io_writer.transport.resume_reading()  # noqa: SLF001
        await until(lambda: not ours.is_behind)


async def test_a_request_larger_than_the_limit_is_served_alone(nats_server: NatsServer) -> None:
    handler, limit = Stalled(), ByteLimit(1000)
    async with serving(nats_server, handler, limit) as (_, _, asked):
        for _ in range(2):
            await asked.ask(LARGE)
            await asked.ask(b"")
            await asked.ask(b"small")
            await until(lambda: asked.counts.total() % 3 == 2)
            handler.may_end.set()
            await until(lambda: asked.counts.total() % 3 == 0)
            handler.may_end.clear()
        assert asked.counts == {BUSY: 4, b"900000": 2}


async def test_endpoints_share_a_limit(nats_server: NatsServer) -> None:
    handler, limit = Stalled(), ByteLimit(100)
    async with (
        serving(nats_server, handler, limit) as (ours, _, asked),
        Endpoint(ours, "other", handler, max_in_flight=10, byte_limit=limit),
    ):
        await asked.ask(b"x" * 60)
        await until(lambda: handler.begun)
        refused = await asked.client.request("other", b"x" * 60, timeout=20)
        handler.may_end.set()
        assert refused.data == BUSY
        await until(lambda: limit.in_flight == 0)
        assert (await asked.client.request("other", b"x" * 60, timeout=20)).data == b"60"


async def test_bytes_are_released_when_a_request_fails_or_is_cancelled(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    limit, begun = ByteLimit(100), asyncio.Event()

    async def fail(data: bytes, _headers: object) -> bytes:
        if data == b"fail":
            raise ZeroDivisionError
        begun.set()
        await asyncio.Event().wait()
        return b""

    async with connected(nats_server.url) as ours, await nats.connect(nats_server.url) as client:
        served = Endpoint(ours, SUBJECT, fail, max_in_flight=10, byte_limit=limit)
        await served.__aenter__()
        await client.request(SUBJECT, b"fail", timeout=20)
        await until(lambda: limit.in_flight == 0)
        waiting = asyncio.create_task(client.request(SUBJECT, b"wait", timeout=20))
        await begun.wait()
        assert limit.in_flight == 4
        leaving = asyncio.create_task(served.__aexit__())
        await until(lambda: events(caplog, "endpoint.draining"))
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (await waiting).data
        assert limit.in_flight == 0


async def test_only_the_handler_refers_to_the_bytes_of_a_request(nats_server: NatsServer) -> None:
    references = []

    async def count(data: bytes, _headers: object) -> bytes:
        await asyncio.sleep(0)
        references.append(sys.getrefcount(data))
        return b""

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, count, max_in_flight=10),
        await nats.connect(nats_server.url) as client,
    ):
        await client.request(SUBJECT, b"x" * 1000, timeout=20)
    only = bytes(bytearray(1000))
    assert references == [sys.getrefcount(only)]


async def test_large_requests_begin_one_after_the_other_and_none_is_left(nats_server: NatsServer) -> None:
    handler, limit = Stalled(), ByteLimit(40_000_000)
    handler.may_end.set()
    async with serving(nats_server, handler, limit) as (_, _, asked):
        for _ in range(60):
            await asked.ask(LARGE)
        await until(lambda: asked.counts.total() == 60, timeout=20)
        assert set(asked.counts) <= {BUSY, b"900000"}
        assert asked.counts[b"900000"] > 0
        assert limit.in_flight == 0

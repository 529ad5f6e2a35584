# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The endpoint over a real nats-server: a task per request, a limit, exactly one reply, a drain."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING

import nats
import pytest

from shared.nats.endpoint import BUSY, FAILED, TOO_LARGE, Endpoint
from shared.nats.micro import Discovery
from tests.shared.connections import connected, events
from tests.stack import nats_proxy
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.msg import Msg

    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

SUBJECT = "lfx.email-service.test"


async def test_requests_are_served_at_the_same_time(nats_server: NatsServer) -> None:
    all_together = asyncio.Barrier(50)

    async def together(data: bytes, _headers: object) -> bytes:
        await all_together.wait()
        return data

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, together, max_in_flight=50),
        await nats.connect(nats_server.url) as caller,
    ):
        replies = await asyncio.gather(*(caller.request(SUBJECT, b"%d" % number, timeout=10) for number in range(50)))
        assert [reply.data for reply in replies] == [b"%d" % number for number in range(50)]


async def test_requests_over_the_limit_are_refused_and_each_gets_one_reply(
    nats_server: NatsServer,
) -> None:
    stalled = asyncio.Event()

    async def stall(_: bytes, _headers: object) -> bytes:
        await stalled.wait()
        return b"served"

    async with connected(nats_server.url) as ours, await nats.connect(nats_server.url) as caller:
        async with Endpoint(ours, SUBJECT, stall, max_in_flight=64) as endpoint:
            inbox, replies = caller.new_inbox(), collections.Counter[tuple[str, bytes]]()

            async def count(msg: Msg) -> None:
                replies[msg.subject, msg.data] += 1

            await caller.subscribe(f"{inbox}.*", cb=count)
            for number in range(5000):
                await caller.publish(SUBJECT, b"x" * 20_000, reply=f"{inbox}.{number}")
            await until(lambda: replies.total() == 5000 - 64)
            assert {data for _, data in replies} == {BUSY}
            assert (endpoint.busy, endpoint.in_flight) == (5000 - 64, 64)
            stalled.set()
            await until(lambda: replies.total() == 5000)
        assert set(replies.values()) == {1}
        assert len({subject for subject, _ in replies}) == 5000


@pytest.mark.parametrize(
    "reply", ["$KV.email-recipients.x", "$JS.API.STREAM.DELETE.x", "lfx.email-service.email_failed"]
)
async def test_a_request_with_a_reserved_reply_subject_is_not_served(
    nats_server: NatsServer, reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = []

    async def echo(data: bytes, _headers: object) -> bytes:
        served.append(data)
        return data

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, echo, max_in_flight=2) as endpoint,
        Discovery(ours, "lfx-email-test", "Tests", [endpoint]),
        await nats.connect(nats_server.url) as caller,
    ):
        there = await caller.subscribe(reply)
        for subject in ("$SRV.PING", SUBJECT):
            await caller.publish(subject, b"forged", reply=reply)
        assert (await caller.request(SUBJECT, b"asked", timeout=20)).data == b"asked"
        assert (served, there.pending_msgs) == ([b"asked"], 0)
    assert len(events(caplog, "request.ignored")) == 1


async def test_an_endpoint_that_stops_while_disconnected_receives_no_request_after_the_reconnect(
    nats_server: NatsServer, nats_proxy: NatsProxy
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(data: bytes, _headers: object) -> bytes:
        begun.set()
        await may_end.wait()
        return data

    async with await nats.connect(nats_server.url) as caller, connected(nats_proxy.url) as ours:
        endpoint = Endpoint(ours, SUBJECT, wait, max_in_flight=2)
        await endpoint.__aenter__()
        first = asyncio.create_task(caller.request(SUBJECT, b"first", timeout=10))
        await begun.wait()
        await nats_proxy.stop()
        await until(lambda: not ours.connected)
        stopping = asyncio.create_task(endpoint.__aexit__())
        await asyncio.sleep(0)  # it has dropped the subscription, and waits for the first request
        await nats_proxy.start()
        await until(lambda: ours.connected)
        await ours.flush()
        with pytest.raises(nats.errors.NoRespondersError):
            await caller.request(SUBJECT, b"late", timeout=10)
        may_end.set()
        await stopping
        assert (await first).data == b"first"


async def test_a_handler_that_fails_is_answered_and_logged_once(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: bytes, _headers: object) -> bytes:
        raise ZeroDivisionError

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, fail, max_in_flight=1) as endpoint,
        await nats.connect(nats_server.url) as caller,
    ):
        assert (await caller.request(SUBJECT, b"", timeout=20)).data == FAILED
        assert endpoint.failed == 1
    assert len(events(caplog, "request.failed")) == 1


async def test_a_reply_over_max_payload_is_replaced_by_an_error(nats_server: NatsServer) -> None:
    async def flood(_: bytes, _headers: object) -> bytes:
        return b"x" * 2_000_000

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, flood, max_in_flight=1),
        await nats.connect(nats_server.url) as caller,
    ):
        assert (await caller.request(SUBJECT, b"", timeout=20)).data == TOO_LARGE


async def test_a_handler_is_given_the_headers_of_the_request(nats_server: NatsServer) -> None:
    async def name(_: bytes, headers: Mapping[str, str] | None) -> bytes:
        return str(headers).encode()

    async with (
        connected(nats_server.url) as ours,
        Endpoint(ours, SUBJECT, name, max_in_flight=1),
        await nats.connect(nats_server.url) as caller,
    ):
        assert (await caller.request(SUBJECT, b"", timeout=20)).data == b"None"
        reply = await caller.request(SUBJECT, b"", timeout=20, headers={"Idempotency-Key": "a"})
        assert reply.data == b"{'Idempotency-Key': 'a'}"


async def test_a_request_without_a_reply_subject_is_served(nats_server: NatsServer) -> None:
    served = asyncio.Event()

    async def note(data: bytes, _headers: object) -> bytes:
        served.set()
        return data

    async with connected(nats_server.url) as ours, Endpoint(ours, SUBJECT, note, max_in_flight=1):
        await ours.publish(SUBJECT, b"")
        async with asyncio.timeout(20):
            await served.wait()


async def test_leaving_answers_the_requests_that_the_server_had_sent(nats_server: NatsServer) -> None:
    async def slow(data: bytes, _headers: object) -> bytes:
        await asyncio.sleep(0.2)
        return data

    async with connected(nats_server.url) as ours, await nats.connect(nats_server.url) as caller:
        async with Endpoint(ours, SUBJECT, slow, max_in_flight=100):
            asked = [asyncio.create_task(caller.request(SUBJECT, b"%d" % number, timeout=20)) for number in range(40)]
            await asyncio.sleep(0)  # the requests are written
            await caller.flush()
            await caller.flush()  # the ping of nats-py's first flush overtakes the requests
        assert sorted([int((await one).data) for one in asked]) == list(range(40))


async def test_leaving_that_is_interrupted_while_the_server_is_silent_ends_the_requests(
    nats_server: NatsServer,
) -> None:
    begun, ended, leaving = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stall(_: bytes, _headers: object) -> bytes:
        begun.set()
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never
        finally:
            ended.set()

    async def serve(proxy: NatsProxy) -> None:
        async with connected(proxy.url) as ours, Endpoint(ours, SUBJECT, stall, max_in_flight=1):
            await begun.wait()
            proxy.freeze()
            leaving.set()

    async with nats_proxy.running(nats_server.url) as proxy, await nats.connect(nats_server.url) as caller:
        serving = asyncio.create_task(serve(proxy))
        await until(lambda: proxy.links)
        while not begun.is_set():  # the endpoint may not be subscribed yet
            await caller.publish(SUBJECT, b"", reply="inbox")
            await asyncio.sleep(0.02)
        await leaving.wait()
        await asyncio.sleep(0)
        serving.cancel()
        proxy.thaw()
        await asyncio.wait({serving})
        assert serving.cancelled()
        assert ended.is_set()


async def test_two_endpoints_share_the_requests(nats_server: NatsServer) -> None:
    async def name(which: bytes) -> bytes:
        return which

    async with (
        connected(nats_server.url) as one,
        connected(nats_server.url) as other,
        Endpoint(one, SUBJECT, lambda *_: name(b"one"), max_in_flight=10),
        Endpoint(other, SUBJECT, lambda *_: name(b"other"), max_in_flight=10),
        await nats.connect(nats_server.url) as caller,
    ):
        replies = {(await caller.request(SUBJECT, b"", timeout=20)).data for _ in range(100)}
        assert replies == {b"one", b"other"}

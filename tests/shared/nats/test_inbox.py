# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Requests over one inbox: each gets its own reply, or fails soon if no reply will come."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING

import nats
import pytest

from shared.errors import NoReply, NotPermitted, StoreUnavailable, ValueTooLarge
from shared.nats import inbox
from shared.nats.inbox import Inbox
from tests.shared.connections import as_user, was_never_lost, with_inbox
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

SOON = 30.0  # on a busy machine
USERS = """
authorization { users: [
  { user: mute, password: s3cret, permissions: { publish: "numbers", subscribe: "_INBOX.>" } }
  { user: deaf, password: s3cret, permissions: { publish: "numbers", subscribe: "another" } }
] }
"""


@pytest.fixture
async def box(nats_connection: Connection) -> AsyncIterator[Inbox]:
    """An inbox, through the proxy."""
    async with Inbox(nats_connection) as it:
        yield it


@pytest.fixture
async def responder(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A client of nats-py that answers requests."""
    async with await nats.connect(nats_server.url) as client:
        yield client


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request wait much longer than a busy machine takes."""
    monkeypatch.setattr(inbox, "TIMEOUT_SECONDS", 10 * SOON)


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """Check that the block takes much less time than the limit of a request."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON


async def known(client: Client) -> None:
    """Return when the server knows the subscriptions: the ping of nats-py's first flush overtakes them."""
    await client.flush()
    await client.flush()


async def echo(client: Client, subject: str) -> None:
    """Answer each request with its own payload."""

    async def answer(msg: Msg) -> None:
        await msg.respond(msg.data)

    await client.subscribe(subject, cb=answer)
    await known(client)


def is_end(msg: Msg) -> bool:
    """Return whether a message is the last of several replies."""
    return msg.data == b"end"


async def test_thousands_of_requests_at_once_get_their_own_replies(box: Inbox, responder: Client) -> None:
    waiting: list[Msg] = []

    async def answer_backwards(msg: Msg) -> None:
        waiting.append(msg)
        if len(waiting) == 5000:
            for one in reversed(waiting):
                await one.respond(b"re: " + one.data)

    await responder.subscribe("numbers", cb=answer_backwards)
    await known(responder)
    replies = await asyncio.gather(*[box.request("numbers", b"%d" % number) for number in range(5000)])
    assert [reply.data for reply in replies] == [b"re: %d" % number for number in range(5000)]


@pytest.mark.parametrize(
    ("user", "subject", "message"),
    [("mute", "$KV.B.k", "may not publish to $KV.B.k"), ("deaf", "numbers", "may not subscribe to _INBOX.")],
)
async def test_a_request_without_permission_fails_soon(user: str, subject: str, message: str) -> None:
    async with servers.running(USERS) as server, with_inbox(as_user(server.url, f"{user}:s3cret")) as (_, box):
        with soon(), pytest.raises(NotPermitted, match=re.escape(f"the NATS user {message}")):
            await box.request(subject)


async def test_headers_are_sent_and_received(box: Inbox, responder: Client) -> None:
    async def answer(msg: Msg) -> None:
        await responder.publish(msg.reply, b"", headers={"Seen": (msg.headers or {})["Sent"]})

    await responder.subscribe("headers", cb=answer)
    await known(responder)
    assert (await box.request("headers", headers={"Sent": "yes"})).headers == {"Seen": "yes"}


async def test_a_request_gets_the_same_reply_as_one_of_the_library(box: Inbox, responder: Client) -> None:
    async def answer(msg: Msg) -> None:
        headers = {"Seen": repr(sorted((msg.headers or {}).items())), "Odd": "a: b "}
        await responder.publish(msg.reply, msg.data[::-1], headers=headers)

    await responder.subscribe("mirror", cb=answer)
    await known(responder)
    for payload in (b"", b"x", b"\r\n", bytes(range(256)), b"y" * 500_000):
        for headers in (None, {"A": "1"}, {"A": "1", "b-c": "x y"}):
            ours = await box.request("mirror", payload, headers)
            theirs = await responder.request("mirror", payload, headers=headers)
            assert (ours.data, ours.headers) == (theirs.data, theirs.headers)


async def test_a_subject_without_subscribers_is_unavailable_at_once(box: Inbox) -> None:
    with soon(), pytest.raises(StoreUnavailable, match="no responders"):
        await box.request("unserved")
    with soon(), pytest.raises(StoreUnavailable, match="no responders"):
        await box.collect("unserved", b"", is_end)


async def test_a_request_fails_at_its_time_limit(
    box: Inbox, responder: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "TIMEOUT_SECONDS", 0.1)
    await responder.subscribe("silence")
    await known(responder)
    with soon(), pytest.raises(StoreUnavailable, match=r"0\.1 s"):
        await box.request("silence")


async def test_the_time_limit_holds_if_the_server_reads_no_more_bytes(
    box: Inbox, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "TIMEOUT_SECONDS", 0.2)
    nats_proxy.freeze()
    async with asyncio.timeout(20):
        results = await asyncio.gather(
            *[box.request("bulk", bytes(900_000)) for _ in range(30)], return_exceptions=True
        )
    assert {type(result) for result in results} == {NoReply}
    nats_proxy.thaw()


async def test_a_lost_connection_fails_the_waiting_requests_at_once(
    box: Inbox, responder: Client, nats_proxy: NatsProxy, nats_connection: Connection
) -> None:
    asked: list[Msg] = []

    async def keep(msg: Msg) -> None:
        asked.append(msg)

    await responder.subscribe("silence", cb=keep)
    await known(responder)
    requests = [
        *(asyncio.create_task(box.request("silence")) for _ in range(100)),
        asyncio.create_task(box.collect("silence", b"", is_end)),
    ]
    await until(lambda: len(asked) == 101)
    with soon():
        nats_proxy.drop_link()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert {str(result) for result in results} == {"disconnected from NATS"}
        with pytest.raises(StoreUnavailable, match="not connected"):
            await box.request("silence")
    await until(lambda: nats_connection.connected)
    await echo(responder, "echo")
    assert (await box.request("echo", b"again")).data == b"again"


async def test_leaving_fails_the_waiting_requests(nats_connection: Connection, responder: Client) -> None:
    asked = asyncio.Event()

    async def keep(_: Msg) -> None:
        asked.set()

    await responder.subscribe("silence", cb=keep)
    await known(responder)
    async with Inbox(nats_connection) as box:
        request = asyncio.create_task(box.request("silence"))
        await asked.wait()
    with soon(), pytest.raises(StoreUnavailable):
        await request


async def test_late_and_repeated_replies_are_dropped(
    box: Inbox, responder: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Msg] = []

    async def keep(msg: Msg) -> None:
        asked.append(msg)
        if msg.data == b"twice":
            await msg.respond(b"first")
            await msg.respond(b"second")

    await responder.subscribe("slow", cb=keep)
    await echo(responder, "echo")
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "TIMEOUT_SECONDS", 0.05)
        with pytest.raises(StoreUnavailable):
            await box.request("slow", b"late")
    await asked[0].respond(b"much too late")
    assert (await box.request("slow", b"twice")).data == b"first"
    assert (await box.request("echo", b"own")).data == b"own"
    assert (await box.request("echo", b"own too")).data == b"own too"
    assert not caplog.records


async def test_a_payload_over_max_payload_raises_before_it_is_sent() -> None:
    async with (
        servers.running("max_payload: 64KB") as server,
        proxies.running(server.url) as proxy,
        with_inbox(proxy.url) as (connected, box),
        await nats.connect(server.url) as client,
    ):
        await echo(client, "echo")
        for size in (64 * 1024 + 1, 64 * 1024, 64 * 1024 - 100):
            with pytest.raises(ValueTooLarge, match=str(size)):
                await box.request("echo", bytes(size))
            with pytest.raises(ValueTooLarge, match=str(size)):
                await box.collect("echo", bytes(size), is_end)
        largest = bytes(64 * 1024 - inbox.HEADER_ROOM_BYTES)
        assert (await box.request("echo", largest, {"Nats-Expected-Last-Subject-Sequence": "1" * 20})).data == largest
        assert was_never_lost(connected)
        assert proxy.published.count("echo") == 1


async def test_several_replies_are_collected_up_to_the_last_one(box: Inbox, responder: Client) -> None:
    async def answer(msg: Msg) -> None:
        for number in range(int(msg.data)):
            await msg.respond(b"%d" % number)
        await msg.respond(b"end")
        await msg.respond(b"beyond the end")

    await responder.subscribe("many", cb=answer)
    await known(responder)
    batches = await asyncio.gather(*[box.collect("many", b"%d" % count, is_end) for count in range(100)])
    for count, batch in enumerate(batches):
        assert [msg.data for msg in batch] == [*(b"%d" % number for number in range(count)), b"end"]


async def test_replies_without_a_last_one_are_unavailable(
    box: Inbox, responder: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "TIMEOUT_SECONDS", 0.1)
    await echo(responder, "echo")
    with soon(), pytest.raises(StoreUnavailable):
        await box.collect("echo", b"the only one", is_end)


async def test_a_cancelled_request_does_not_affect_the_others(box: Inbox, responder: Client) -> None:
    asked: list[Msg] = []

    async def keep(msg: Msg) -> None:
        asked.append(msg)

    await responder.subscribe("slow", cb=keep)
    await known(responder)
    first, second = (asyncio.create_task(box.request("slow", name)) for name in (b"1", b"2"))
    await until(lambda: len(asked) == 2)
    first.cancel()
    for msg in asked:
        await msg.respond(msg.data)
    assert (await second).data == b"2"
    with pytest.raises(asyncio.CancelledError):
        await first

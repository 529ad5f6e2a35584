# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""When the client writes, and which messages it passes on without nats-py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import nats
import pytest
from nats.js.api import Header

from shared.nats import connection as nats_connection
from shared.nats import prompt_client, transport
from tests.shared.connections import connected as connect
from tests.stack.waiting import until

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer

Write = list[bytes]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Write]:
    """The subjects of each write to a server, without those of the client's own commands."""
    seen: list[Write] = []
    write = transport.Transport.writelines

    def record(self: transport.Transport, payload: list[bytes]) -> None:
        if subjects := [command.split()[1] for command in payload if command.startswith((b"PUB ", b"HPUB "))]:
            seen.append(subjects)
        write(self, payload)

    monkeypatch.setattr(transport.Transport, "writelines", record)
    return seen


async def publish(connection: Connection, *subjects: str) -> None:
    """Publish messages without waiting between them."""
    for number, subject in enumerate(subjects):
        await connection.publish(subject, b"x", headers={"A": "b"} if number % 2 else None)


async def seen_by_nats_py(subscription: Subscription) -> tuple[str, bytes, dict[str, str] | None]:
    """Return the next message of a subscription that has no function of ours."""
    msg = await subscription.next_msg()
    return msg.subject, msg.data, msg.headers


async def test_messages_of_one_turn_of_the_event_loop_are_one_write(
    nats_server: NatsServer, writes: list[Write]
) -> None:
    async with connect(nats_server.url) as connection:
        await publish(connection, "a", "b", "c")
        assert writes == []
        await asyncio.sleep(0)
        await publish(connection, "d")
        await connection.flush()
    assert writes == [[b"a", b"b", b"c"], [b"d"]]


async def test_the_answer_to_a_lone_message_is_written_in_the_turn_in_which_it_is_published(
    nats_server: NatsServer, writes: list[Write]
) -> None:
    seen: list[list[Write]] = []

    async def answer() -> None:
        await publish(connection, "a")
        seen.append([*writes])
        await publish(connection, "b", "c")
        seen.append([*writes])

    async with connect(nats_server.url) as connection, connect(nats_server.url) as caller:
        tasks = set()
        await connection.subscribe("question", lambda _: tasks.add(asyncio.create_task(answer())))
        await connection.flush()
        await caller.client._transport.drain()  # type: ignore[union-attr] # noqa: SLF001
        writes.clear()
        caller.client._transport.write(b"PUB question 0\r\n\r\n")  # type: ignore[union-attr] # noqa: SLF001
        await until(lambda: len(seen) == 2)
        await connection.flush()
    assert seen == [[[b"a"]], [[b"a"]]]
    assert writes == [[b"a"], [b"b", b"c"]]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"A": "b"},
        {"A": "b", "C": "ü, ö"},
        {"A": "two\r\nlines"},
        {"A": "b", "B": "\n"},
        {"A": "\r"},
        {Header.ROLLUP: "sub"},
    ],
)
async def test_headers_are_those_that_nats_py_sends(nats_server: NatsServer, headers: dict[str, str]) -> None:
    received: list[Msg] = []
    async with connect(nats_server.url) as connection, await nats.connect(nats_server.url) as theirs:
        await connection.subscribe("*", received.append)
        await connection.flush()
        await theirs.publish("theirs", b"x", headers=headers)
        await until(lambda: received)  # the PING of a flush of nats-py may overtake the message
        await connection.publish("ours", b"x", headers=headers)
        await until(lambda: len(received) == 2)
    assert (received[1].subject, received[1].data) == ("ours", b"x")
    assert received[1].headers == received[0].headers


async def test_what_the_server_does_not_read_waits_for_nats_py(
    nats_server: NatsServer, writes: list[Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_client, "UNSENT_BYTES", 0)
    received: list[Msg] = []
    async with connect(nats_server.url) as connection:
        await connection.subscribe("*", received.append)
        await publish(connection, "a", "b")
        await until(lambda: len(received) == 2)
    assert writes == [[b"a", b"b"]]


@pytest.mark.parametrize("unsent_bytes", [prompt_client.UNSENT_BYTES, 0], ids=["ours", "nats-py"])
async def test_what_is_published_while_the_socket_closes_goes_to_the_next_server(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, unsent_bytes: int
) -> None:
    """Whether our function or the task of nats-py writes it."""
    monkeypatch.setattr(nats_connection, "RECONNECT_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(prompt_client, "UNSENT_BYTES", unsent_bytes)
    received: list[bytes] = []
    async with connect(nats_server.url) as subscriber, connect(nats_server.url) as connection:
        await subscriber.subscribe("s", lambda msg: received.append(msg.data))
        await subscriber.flush()
        await connection.publish("s", b"before")
        await until(lambda: received)
        connection.client._transport._io_writer.transport.abort()  # type: ignore[union-attr] # noqa: SLF001 - as asyncio does after an error
        assert connection.connected, "not noticed yet"
        for payload in (b"1", b"2"):
            await connection.publish("s", payload)
            await asyncio.sleep(0)
        await until(lambda: not connection.connected)
        await connection.publish("s", b"3")
        await until(lambda: len(received) == 4)
    assert received == [b"before", b"1", b"2", b"3"]


async def test_each_kind_of_message_arrives_once_and_in_order(nats_server: NatsServer) -> None:
    """With headers and without, on a subscription of our own and on one of the library."""
    received: list[tuple[str, bytes, dict[str, str] | None]] = []
    sent = [("a", b"1", None), ("b", b"2", {"A": "b"}), ("c", b"", None), ("d", b"4", {"A": "ü"})]
    async with connect(nats_server.url) as connection, connect(nats_server.url) as caller:
        theirs = await connection.client.subscribe("*")
        await connection.subscribe("*", lambda msg: received.append((msg.subject, msg.data, msg.headers)))
        await connection.flush()
        for subject, payload, headers in sent:
            await caller.publish(subject, payload, headers=headers)
        await until(lambda: len(received) == len(sent))
        assert received == sent
        assert [await seen_by_nats_py(theirs) for _ in sent] == sent
        assert connection.client.stats["in_msgs"] == 2 * len(sent)

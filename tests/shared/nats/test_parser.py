# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The parser and the reader: each message, and each refusal, is the same however the bytes are divided."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError

from shared.nats.parser import Parser
from shared.nats.reader import Reader

LARGE = bytes(range(256)) * 300
INNER = b"MSG a 1 1\r\nx\r\n"
HEADERS = b"NATS/1.0\r\nA: b\r\n\r\n"
WIRE = b"".join(
    (
        b"MSG a 1 3\r\nMSG\r\n",
        b"MSG a.b 12 reply.to 0\r\n\r\n",
        b"PING\r\n",
        b"MSG large 1 reply %d\r\n%s\r\n" % (len(LARGE), LARGE),
        b"HMSG h 2 %d %d\r\n%sx\r\n" % (len(HEADERS), len(HEADERS) + 1, HEADERS),
        b"HMSG large 2 reply %d %d\r\n%s%s\r\n" % (len(HEADERS), len(HEADERS + LARGE), HEADERS, LARGE),
        b"MSG large 3 reply %d\r\n%s\r\n" % (len(INNER + LARGE), INNER + LARGE),
        b"HMSG large 3 reply %d %d\r\n%s%s\r\n" % (len(HEADERS), len(HEADERS + LARGE), HEADERS, LARGE),
        b"MSG small 3 reply 3\r\nabc\r\n",
        b"PONG\r\n+OK\r\n",
        b"MSG a 1 2\r\n\r\n\r\n",
    )
)
PARSED = [
    (1, b"a", b"", b"MSG", None),
    (12, b"a.b", b"reply.to", b"", None),
    "ping",
    (1, b"large", b"reply", LARGE, None),
    (2, b"h", b"", b"x", HEADERS),
    (2, b"large", b"reply", LARGE, HEADERS),
    ("refused", b"reply", len(INNER + LARGE)),
    ("refused", b"reply", len(HEADERS + LARGE)),
    (3, b"small", b"reply", b"abc", None),
    "pong",
    (1, b"a", b"", b"\r\n", None),
]


class Seen:
    """Takes the place of the client, which delivers most messages itself, and leaves others to nats-py."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.delivered: list[int] = []

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> bool:
        """Deliver each second message."""
        self.delivered.append(sid)
        if len(self.delivered) % 2:
            self.all.append((sid, subject, reply, data, headers or None))
        return len(self.delivered) % 2 == 1

    async def _process_msg(self, *message: Any) -> None:
        assert type(message[3]) is bytes
        self.all.append(message)

    def refuses(self, sid: int, reply: bytes, size: int) -> bool:
        """Refuse what is for subscription 3."""
        if sid == 3:
            self.all.append(("refused", reply, size))
        return sid == 3

    async def _process_ping(self) -> None:
        self.all.append("ping")

    async def _process_pong(self) -> None:
        self.all.append("pong")


class Source(asyncio.Transport):
    """Notes whether reading is paused."""

    is_paused = False

    def pause_reading(self) -> None:
        """Note it."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.is_paused = False


def divided(data: bytes, positions: list[int]) -> list[bytes]:
    return [data[a:b] for a, b in itertools.pairwise([0, *sorted(positions), len(data)])]


async def parsed(pieces: list[bytes]) -> list[Any]:
    seen = Seen()
    parser = Parser(seen)
    for piece in pieces:
        await parser.parse(piece)
    return seen.all


async def read(pieces: list[bytes], pauses: list[bool]) -> list[Any]:
    """Read pieces as the client does; another task runs between two of them where there is a pause."""
    seen = Seen()
    parser = Parser(seen)
    received = Reader(memoryview(bytearray(len(WIRE))), parser.feed, 10_000)
    received.set_transport(Source())

    async def reading() -> None:
        while piece := await received.read():
            await parser.parse(piece)

    task = asyncio.create_task(reading())
    for piece, pause in zip(pieces, itertools.cycle(pauses), strict=False):
        if pause:
            await asyncio.sleep(0)
        arrive(received, piece)
    received.feed_eof()
    await task
    return seen.all


def arrive(received: Reader, data: bytes) -> None:
    """Read bytes into the buffer, and overwrite them."""
    received.buffer[: len(data)] = data
    received.buffer_updated(len(data))
    received.buffer[: len(data)] = bytes(len(data))


def new_reader(read_ahead: int = 1_000_000) -> Reader:
    return Reader(memoryview(bytearray(100_000)), bytes, read_ahead)


POSITIONS = st.lists(st.integers(0, len(WIRE)), max_size=60, unique=True)


@settings(max_examples=60)
@given(positions=POSITIONS)
def test_messages_are_read_however_their_bytes_are_divided(positions: list[int]) -> None:
    assert asyncio.run(parsed(divided(WIRE, positions))) == PARSED


@settings(max_examples=60)
@given(positions=POSITIONS, pauses=st.lists(st.booleans(), min_size=1, max_size=10))
def test_messages_are_read_out_of_the_buffer_in_their_order(positions: list[int], pauses: list[bool]) -> None:
    assert asyncio.run(read(divided(WIRE, positions), pauses)) == PARSED


async def test_each_division_near_the_begin_and_the_end_of_a_message_is_read() -> None:
    wire = b"MSG a 1 5\r\nabcde\r\nHMSG h 2 %d %d\r\n%sx\r\nPING\r\n" % (len(HEADERS), len(HEADERS) + 1, HEADERS)
    expected = [(1, b"a", b"", b"abcde", None), (2, b"h", b"", b"x", HEADERS), "ping"]
    for positions in itertools.combinations(range(len(wire)), 2):
        assert await parsed(divided(wire, list(positions))) == expected


async def test_a_large_message_is_refused_before_its_payload_is_read() -> None:
    seen = Seen()
    parser = Parser(seen)
    await parser.parse(b"MSG large 3 reply 100000\r\n")
    assert seen.all == [("refused", b"reply", 100_000)]
    await parser.parse(b"x" * 100_000 + b"\r\nPING\r\n")
    assert seen.all[1:] == ["ping"]


async def test_nothing_is_read_after_a_line_that_cannot_be_read() -> None:
    for line in (b"MSG a\r\n", b"MSG a b c d 1\r\n", b"PING\n", b"x" * 5000 + b"\r\n"):
        seen = Seen()
        parser = Parser(seen)
        with pytest.raises(ProtocolError):
            await parser.parse(line + INNER)
        assert seen.all == []


async def test_nothing_is_read_after_an_error_that_ends_the_connection() -> None:
    seen = Seen()
    parser = Parser(seen)

    async def end(_: str) -> None:
        parser.reset()

    seen._process_err = end  # type: ignore[attr-defined] # noqa: SLF001 - as nats-py does
    await parser.parse(b"-ERR 'Stale Connection'\r\n" + INNER + b"MSG a 1 9")
    await parser.parse(INNER)
    assert seen.all == [(1, b"a", b"", b"x", None)]


async def test_a_parser_that_is_reset_forgets_the_incomplete_message() -> None:
    seen = Seen()
    parser = Parser(seen)
    await parser.parse(b"MSG a 1 100\r\nincomplete")
    parser.reset()
    await parser.parse(b"MSG a 1 3\r\nabc\r\n")
    assert seen.all == [(1, b"a", b"", b"abc", None)]


async def test_a_line_is_read_whole_also_if_the_first_attempt_is_cancelled() -> None:
    received = new_reader()
    received.feed_data(b"first ")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await received.readline()
    received.feed_data(b"line\nrest")
    assert await received.readline() == b"first line\n"
    received.feed_eof()
    ended = [received.at_eof()]
    assert await received.read() == b"rest"
    ended.append(received.at_eof())
    assert ended == [False, True]
    assert (await received.read(), await received.readline()) == (b"", b"")


async def test_reading_pauses_while_many_bytes_are_unread() -> None:
    received = new_reader(1_000_000)
    source: Any = Source()
    received.set_transport(source)
    while not source.is_paused:
        received.feed_data(b"x" * 100_000)
    unread = 0
    while source.is_paused:
        unread += len(await received.read())
    assert unread == pytest.approx(1_000_000, abs=200_000)


async def test_a_lost_connection_is_reported_after_the_bytes_that_had_arrived() -> None:
    received = new_reader()
    received.feed_data(b"last")
    received.set_exception(ConnectionResetError())
    assert await received.read() == b"last"
    with pytest.raises(ConnectionResetError):
        await received.read()

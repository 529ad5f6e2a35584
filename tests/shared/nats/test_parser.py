# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The parser and the reader: each message is the same however its bytes are divided."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from shared.nats import reader
from shared.nats.parser import Parser
from shared.nats.reader import PieceReader

LARGE = bytes(range(256)) * 300
HEADERS = b"NATS/1.0\r\nA: b\r\n\r\n"
WIRE = b"".join(
    (
        b"MSG a 1 3\r\nMSG\r\n",
        b"MSG a.b 12 reply.to 0\r\n\r\n",
        b"PING\r\n",
        b"MSG large 1 reply %d\r\n%s\r\n" % (len(LARGE), LARGE),
        b"HMSG h 2 %d %d\r\n%sx\r\n" % (len(HEADERS), len(HEADERS) + 1, HEADERS),
        b"HMSG large 2 reply %d %d\r\n%s%s\r\n" % (len(HEADERS), len(HEADERS + LARGE), HEADERS, LARGE),
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
    "pong",
    (1, b"a", b"", b"\r\n", None),
]


class Seen:
    """Takes the place of the client."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    async def _process_msg(self, *message: Any) -> None:
        assert type(message[3]) is bytes
        self.all.append(message)

    async def _process_ping(self) -> None:
        self.all.append("ping")

    async def _process_pong(self) -> None:
        self.all.append("pong")


def divided(data: bytes, positions: list[int]) -> list[bytes]:
    return [data[a:b] for a, b in itertools.pairwise([0, *sorted(positions), len(data)])]


async def parsed(pieces: list[bytes]) -> list[Any]:
    seen = Seen()
    parser = Parser(seen)
    for piece in pieces:
        await parser.parse(piece)
    return seen.all


@pytest.mark.parametrize("seed", range(20))
async def test_messages_are_read_however_their_bytes_are_divided(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    positions = [chance.randrange(len(WIRE)) for _ in range(chance.choice([0, 1, 5, 50, 500]))]
    assert await parsed(divided(WIRE, positions)) == PARSED


async def test_each_division_near_the_begin_and_the_end_of_a_message_is_read() -> None:
    wire = b"MSG a 1 5\r\nabcde\r\nHMSG h 2 %d %d\r\n%sx\r\nPING\r\n" % (len(HEADERS), len(HEADERS) + 1, HEADERS)
    expected = [(1, b"a", b"", b"abcde", None), (2, b"h", b"", b"x", HEADERS), "ping"]
    for positions in itertools.combinations(range(len(wire)), 2):
        assert await parsed(divided(wire, list(positions))) == expected


async def test_a_parser_that_is_reset_forgets_the_incomplete_message() -> None:
    seen = Seen()
    parser = Parser(seen)
    await parser.parse(b"MSG a 1 100\r\nincomplete")
    parser.reset()
    await parser.parse(b"MSG a 1 3\r\nabc\r\n")
    assert seen.all == [(1, b"a", b"", b"abc", None)]


class Source(asyncio.Transport):
    """Notes whether reading is paused."""

    is_paused = False

    def pause_reading(self) -> None:
        """Note it."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Note it."""
        self.is_paused = False


async def test_a_line_is_read_whole_also_if_the_first_attempt_is_cancelled() -> None:
    received = PieceReader()
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
    received = PieceReader()
    source: Any = Source()
    received.set_transport(source)
    while not source.is_paused:
        received.feed_data(b"x" * 100_000)
    unread = 0
    while source.is_paused:
        unread += len(await received.read())
    assert unread == pytest.approx(reader.READ_AHEAD_BYTES, abs=200_000)


async def test_a_lost_connection_is_reported_after_the_bytes_that_had_arrived() -> None:
    received = PieceReader()
    received.feed_data(b"last")
    received.set_exception(ConnectionResetError())
    assert await received.read() == b"last"
    with pytest.raises(ConnectionResetError):
        await received.read()

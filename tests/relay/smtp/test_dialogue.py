# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Commands and replies on a socket pair; the test cuts the received bytes at any place."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.smtp.dialogue import MAX_REPLY_BYTES, SERVICE_CLOSING, Dialogue, DialogueLost, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

PROPERTY = settings(max_examples=50)

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
codes = st.integers(200, 599)
line_ends = st.sampled_from([b"\r\n", b"\n"])


class Spoken(NamedTuple):
    """A reply, and the pieces in which its bytes are received."""

    reply: Reply
    chunks: list[bytes]


class Ends(NamedTuple):
    """The end of the relay as a dialogue, and the end of the server as streams."""

    dialogue: Dialogue
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def connected(kind: type[Dialogue] = Dialogue) -> AsyncIterator[Ends]:
    """Two ends of a real connection."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        async with asyncio.timeout(20):
            yield Ends(kind(transport), reader, writer)
    finally:
        transport.abort()
        writer.transport.abort()


async def asked(dialogue: Dialogue, line: bytes = b"NOOP\r\n") -> asyncio.Task[Reply]:
    """A command that waits for its reply."""
    task = asyncio.create_task(dialogue.command(line))
    await asyncio.sleep(0)
    return task


def feed(dialogue: Dialogue, chunks: Iterable[bytes]) -> None:
    """Let the dialogue receive these pieces."""
    for chunk in chunks:
        dialogue.data_received(chunk)


def encoded(code: int, lines: list[str], line_end: bytes) -> bytes:
    """The reply on the wire."""
    *further, last = lines
    return b"".join([*(f"{code}-{line}".encode() + line_end for line in further), f"{code} {last}".encode() + line_end])


@st.composite
def cut(draw: st.DrawFn, wire: bytes) -> list[bytes]:
    """Cut bytes anywhere."""
    places = sorted(draw(st.sets(st.integers(1, len(wire) - 1), max_size=6)) if len(wire) > 1 else [])
    return [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]


@st.composite
def spoken(draw: st.DrawFn) -> Spoken:
    """Any reply in any pieces."""
    code, lines = draw(codes), draw(st.lists(words, min_size=1, max_size=4))
    wire = encoded(code, lines, draw(line_ends))
    return Spoken(Reply(code, " ".join(lines)), draw(cut(wire)))


@given(st.lists(spoken(), min_size=1, max_size=5))
@PROPERTY
async def test_each_reply_goes_to_its_command_in_any_pieces(replies: list[Spoken]) -> None:
    async with connected() as (dialogue, _, _):
        for reply, chunks in replies:
            command = await asked(dialogue)
            feed(dialogue, chunks)
            assert await command == reply
        assert dialogue.is_usable


@st.composite
def answered_twice(draw: st.DrawFn) -> Spoken:
    """Two replies, in pieces that may hold parts of both."""
    first, second = draw(spoken()), draw(spoken())
    return Spoken(first.reply, draw(cut(b"".join([*first.chunks, *second.chunks]))))


@given(answered_twice())
@PROPERTY
async def test_a_second_reply_ends_the_dialogue(replies: Spoken) -> None:
    async with connected() as (dialogue, _, _):
        command = await asked(dialogue)
        feed(dialogue, replies.chunks)
        assert await command == replies.reply
        assert not dialogue.is_usable
        with pytest.raises(DialogueLost):
            await dialogue.command(b"NOOP\r\n")


@given((st.binary(min_size=1, max_size=200) | st.text("2345 -\r\n", min_size=1).map(str.encode)).flatmap(cut))
@PROPERTY
async def test_any_data_is_a_reply_or_ends_the_dialogue(noise: list[bytes]) -> None:
    async with connected() as (dialogue, _, _):
        command = await asked(dialogue)
        feed(dialogue, noise)
        dialogue.connection_lost(None)
        try:
            reply = await command
        except DialogueLost:
            return
        assert b"%03d" % reply.code in b"".join(noise)


@pytest.mark.parametrize(
    "wire",
    [
        b"421 4.4.2 idle for too long\r\n",
        b"garbage\r\n",
        b"42",
        b"421-we are\r\n",
    ],
)
async def test_unexpected_data_makes_the_dialogue_unusable_even_if_incomplete(wire: bytes) -> None:
    async with connected() as (dialogue, reader, _):
        feed(dialogue, [wire])
        assert not dialogue.is_usable
        with pytest.raises(DialogueLost):
            await dialogue.command(b"MAIL\r\n")
        dialogue.close()
        assert await reader.read() == b""


@pytest.mark.parametrize("late", [[b"250 OK\r\n"], [b"25", b"0 OK\r\n"], [b"250-OK\r\n", b"250 done\r\n"]])
async def test_a_late_reply_does_not_go_to_the_next_command(late: list[bytes]) -> None:
    async with connected() as (dialogue, _, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await dialogue.command(b"MAIL\r\n")
        with pytest.raises(DialogueLost):
            feed(dialogue, late[:1])
            command = await asked(dialogue, b"RCPT\r\n")
            feed(dialogue, late[1:])
            await command


@pytest.mark.parametrize(
    "wire",
    [
        b"25\r\n",
        b"2x0 no\r\n",
        b"\xb2\xb3\xb9 digits of another alphabet\r\n",
        b"2500 ok\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
)
async def test_a_line_that_is_not_a_reply_ends_the_dialogue(wire: bytes) -> None:
    async with connected() as (dialogue, _, _):
        command = await asked(dialogue)
        feed(dialogue, [wire])
        with pytest.raises(DialogueLost, match="not an SMTP reply"):
            await command
        assert not dialogue.is_usable


@pytest.mark.parametrize("piece", [b"2" * 1024, b"250-" + b"x" * 1020 + b"\r\n", b"250-\r\n" * 256, b"250-\n" * 256])
async def test_a_reply_that_is_too_long_ends_the_dialogue(piece: bytes) -> None:
    async with connected() as (dialogue, _, _):
        command = await asked(dialogue)
        feed(dialogue, [piece] * (MAX_REPLY_BYTES // len(piece) + 2))
        with pytest.raises(DialogueLost, match="a reply of more than"):
            await command


async def test_data_after_the_end_of_the_dialogue_is_dropped() -> None:
    async with connected() as (dialogue, _, _):
        feed(dialogue, [b"x" * 2**20] * 2**12)  # 4 GB in all
        assert not dialogue.is_usable


async def test_the_length_limit_is_for_each_reply() -> None:
    async with connected() as (dialogue, _, _):
        for _ in range(100):
            command = await asked(dialogue)
            feed(dialogue, [b"250 " + b"x" * (MAX_REPLY_BYTES // 50) + b"\r\n"])
            assert (await command).code == 250
        assert dialogue.is_usable


@pytest.mark.parametrize(("wire", "text"), [(b"250\r\n", ""), (b"250 \r\n", ""), (b"250 caf\xe9\r\n", "caf\ufffd")])
async def test_a_reply_may_have_no_text_or_any_encoding(wire: bytes, text: str) -> None:
    async with connected() as (dialogue, _, _):
        command = await asked(dialogue)
        feed(dialogue, [wire])
        assert await command == Reply(250, text)


async def test_a_command_is_sent_unchanged_and_gets_its_reply() -> None:
    async with connected() as (dialogue, reader, writer):
        command = await asked(dialogue, b"RSET\r\n")
        assert await reader.readline() == b"RSET\r\n"
        writer.write(b"250 OK\r\n")
        assert await command == Reply(250, "OK")


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_connection_lost_within_a_reply_ends_the_dialogue(end: str) -> None:
    async with connected() as (dialogue, _, writer):
        command = await asked(dialogue)
        writer.write(b"250-half\r\n")
        getattr(writer.transport, end)()
        with pytest.raises(DialogueLost):
            await command
        assert not dialogue.is_usable


async def test_a_connection_lost_while_idle_is_noticed() -> None:
    async with connected() as (dialogue, _, writer):
        writer.close()
        async with asyncio.timeout(20):
            while dialogue.is_usable:
                await asyncio.sleep(0)
        with pytest.raises(DialogueLost, match="closed the connection"):
            await dialogue.command(b"NOOP\r\n")


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_close_and_abort_end_the_command_that_waits(end: str) -> None:
    async with connected() as (dialogue, _, _):
        command = await asked(dialogue)
        getattr(dialogue, end)()
        with pytest.raises(DialogueLost):
            await command
        with pytest.raises(DialogueLost):
            await dialogue.command(b"NOOP\r\n")


# Several commands in one write


async def group(dialogue: Dialogue, count: int) -> asyncio.Task[None]:
    """Commands that wait for their replies."""
    task = asyncio.create_task(dialogue.exchange(b"NOOP\r\n" * count, count))
    await asyncio.sleep(0)
    return task


@st.composite
def several(draw: st.DrawFn) -> tuple[list[Reply], list[bytes]]:
    """Some replies, none of them 421, in pieces that may hold parts of several."""
    replies = draw(st.lists(spoken().filter(lambda one: one.reply.code != SERVICE_CLOSING), min_size=1, max_size=4))
    wire = b"".join(chunk for one in replies for chunk in one.chunks)
    return [one.reply for one in replies], draw(cut(wire))


@given(several())
@PROPERTY
async def test_commands_in_one_write_get_their_replies_in_order_in_any_pieces(
    answer: tuple[list[Reply], list[bytes]],
) -> None:
    replies, chunks = answer
    async with connected() as (dialogue, reader, _):
        commands = await group(dialogue, len(replies))
        assert await reader.readexactly(6 * len(replies)) == b"NOOP\r\n" * len(replies)
        feed(dialogue, chunks)
        await commands
        assert dialogue.replies == replies
        assert dialogue.is_usable


@given(several())
@PROPERTY
async def test_a_reply_too_many_ends_the_dialogue_after_the_commands(answer: tuple[list[Reply], list[bytes]]) -> None:
    replies, chunks = answer
    async with connected() as (dialogue, _, _):
        commands = await group(dialogue, len(replies))
        feed(dialogue, [b"".join(chunks) + b"250 Ok\r\n"])
        await commands
        assert dialogue.replies == replies
        assert not dialogue.is_usable


@given(several())
@PROPERTY
async def test_a_dialogue_that_ends_between_replies_has_those_that_came(
    answer: tuple[list[Reply], list[bytes]],
) -> None:
    replies, chunks = answer
    async with connected() as (dialogue, _, _):
        commands = await group(dialogue, len(replies) + 1)
        feed(dialogue, [*chunks, b"25"])
        dialogue.connection_lost(None)
        with pytest.raises(DialogueLost):
            await commands
        assert dialogue.replies == replies
        with pytest.raises(DialogueLost):
            await dialogue.command(b"NOOP\r\n")
        assert dialogue.replies == []


async def test_no_reply_is_awaited_after_a_421() -> None:
    async with connected() as (dialogue, _, _):
        commands = await group(dialogue, 3)
        feed(dialogue, [b"250 Ok\r\n421 bye\r\n250 Ok\r\n"])
        with pytest.raises(DialogueLost, match="421 bye"):
            await commands
        assert dialogue.replies == [Reply(250, "Ok"), Reply(421, "bye")]


# Commands in turn

COMMANDS = (b"MAIL\r\n", b"RCPT\r\n", b"DATA\r\n")


class Refused(Exception):
    """A reply is an error."""


class Judge(Dialogue):
    """A dialogue that accepts replies below 400."""

    def error_of(self, line: bytes, reply: Reply) -> Exception | None:
        """Name the command and the reply."""
        return Refused(line, reply) if reply.code >= 400 else None


async def in_turn(dialogue: Dialogue) -> asyncio.Task[None]:
    """Commands of which the first one was sent."""
    task = asyncio.create_task(dialogue.exchange_in_turn(COMMANDS))
    await asyncio.sleep(0)
    return task


async def test_a_command_is_sent_when_the_one_before_it_was_accepted() -> None:
    async with connected(Judge) as (dialogue, reader, writer):
        commands = await in_turn(dialogue)
        for number, line in enumerate(COMMANDS, 1):
            assert await reader.readline() == line
            assert dialogue.writes == number
            writer.write(b"250-O")
            writer.write(b"k\r\n250 Ok\r\n")
        await commands
        assert dialogue.replies == [Reply(250, "Ok Ok")] * 3
        assert dialogue.is_usable


async def test_no_command_follows_an_error() -> None:
    async with connected(Judge) as (dialogue, _, _):
        commands = await in_turn(dialogue)
        feed(dialogue, [b"250 Ok\r\n", b"550 no\r\n"])
        with pytest.raises(Refused, match="RCPT"):
            await commands
        assert dialogue.writes == 2
        assert dialogue.is_usable


@pytest.mark.parametrize("further", [b"250 Ok\r\n", b"250-Ok\r\n", b"25", b"421 bye\r\n", b"hello\r\n"])
async def test_no_command_follows_a_reply_with_unexpected_data_behind_it(further: bytes) -> None:
    async with connected(Judge) as (dialogue, _, _):
        commands = await in_turn(dialogue)
        feed(dialogue, [b"250 Ok\r\n" + further])
        with pytest.raises(DialogueLost):
            await commands
        assert dialogue.writes == 1


@pytest.mark.parametrize("further", [b"250 Ok\r\n", b"25", b"421 bye\r\n"])
async def test_unexpected_data_behind_the_last_reply_ends_the_dialogue_after_the_commands(further: bytes) -> None:
    async with connected(Judge) as (dialogue, _, _):
        commands = await in_turn(dialogue)
        feed(dialogue, [b"250 Ok\r\n", b"250 Ok\r\n", b"250 Ok\r\n" + further])
        await commands
        assert not dialogue.is_usable


async def test_no_command_follows_after_a_cancellation() -> None:
    async with connected(Judge) as (dialogue, _, _):
        commands = await in_turn(dialogue)
        commands.cancel()
        feed(dialogue, [b"250 Ok\r\n"])
        await asyncio.wait([commands])
        assert dialogue.writes == 1
        assert not dialogue.is_usable


async def test_a_dialogue_that_ends_sends_no_further_command() -> None:
    async with connected(Judge) as (dialogue, _, _):
        commands = await in_turn(dialogue)
        dialogue.abort()
        feed(dialogue, [b"250 Ok\r\n"])
        with pytest.raises(DialogueLost, match="aborted"):
            await commands
        assert dialogue.writes == 1

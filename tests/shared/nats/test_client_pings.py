# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The order of the client's PINGs among the other messages, on a server that records what it receives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from nats.aio.client import PING_PROTO

from tests.shared.connections import connected as connect
from tests.shared.connections import has_reconnected
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("impatience")

INFO = b'INFO {"server_id": "s", "version": "2.11.0", "max_payload": 1048576}\r\n'


class Link:
    """A connection to the server, with the first word of each line that the client sent."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.words: list[bytes] = []


class Recorder:
    """A server that answers PING and keeps the links in order."""

    def __init__(self) -> None:
        self.url = ""
        self.links: list[Link] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer PING and record the first words of the lines of a link."""
        link = Link(writer)
        self.links.append(link)
        writer.write(INFO)
        while line := await reader.readline():
            link.words.append(line.split()[0])
            if line == PING_PROTO:
                writer.write(b"PONG\r\n")
        writer.close()


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """A recorder on a free port."""
    one, port = Recorder(), free_port()
    one.url = f"nats://127.0.0.1:{port}"
    async with await asyncio.start_server(one.serve, "127.0.0.1", port):
        yield one


async def test_the_ping_of_a_flush_is_sent_after_earlier_messages(recorder: Recorder) -> None:
    async with connect(recorder.url) as connected:
        [link] = recorder.links
        link.words.clear()
        for number in range(3):
            await connected.publish("news", b"%d" % number)
        await connected.flush()
        assert link.words == [b"PUB", b"0", b"PUB", b"1", b"PUB", b"2", b"PING"]


async def test_a_ping_from_before_a_reconnect_is_not_sent_after_it(recorder: Recorder) -> None:
    """Its PONG would answer a flush whose own PING the server has not read yet."""
    async with connect(recorder.url) as connected:
        connected.client._pending.append(PING_PROTO)  # noqa: SLF001 - as after a ping to a server that does not read
        recorder.links[0].writer.close()
        await until(lambda: has_reconnected(connected))
        await connected.publish("news", b"1")
        await connected.flush()
        handshake, flush_of_nats_py = [b"CONNECT", b"PING"], [b"PING"]
        assert recorder.links[1].words == [*handshake, *flush_of_nats_py, b"PUB", b"1", b"PING"]

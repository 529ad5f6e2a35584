# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SMTP servers that offer PIPELINING and cannot do it; they are correct for a client that waits for each reply."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Habit = Literal["drops the rest", "answers late", "closes", "refuses", "reads one line", "answers nothing", "says 421"]
HABITS: Final[tuple[Habit, ...]] = (
    "drops the rest",
    "answers late",
    "closes",
    "refuses",
    "reads one line",
    "answers nothing",
    "says 421",
)
"""What the server does when several commands arrive at once."""
LATE_SECONDS: Final = 0.5
ANSWERS: Final = {b"EHLO": b"250-localhost\r\n250 PIPELINING\r\n", b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}


class MisledSmtp:
    """A server with such a habit, its mails, and how often several commands arrived at once."""

    def __init__(self, habit: Habit) -> None:
        self.habit = habit
        self.pipelined = 0
        self.mails: list[bytes] = []
        self.port = 0
        self._sessions: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._sessions[asyncio.create_task(self._converse(reader, writer))] = writer

    async def end(self) -> None:
        """End all sessions."""
        for writer in self._sessions.values():
            writer.transport.abort()
        if self._sessions:
            await asyncio.wait(self._sessions)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        while received := await reader.read(65_536):
            if received.count(b"\r\n") > 1:
                self.pipelined += 1
                if not await self._misbehave(writer):
                    break
                continue
            writer.write(ANSWERS.get(received[:4], b"250 Ok\r\n"))
            if received[:4] == b"DATA":
                self.mails.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 Ok\r\n")
        writer.close()

    async def _misbehave(self, writer: asyncio.StreamWriter) -> bool:
        """Return whether the session goes on."""
        match self.habit:
            case "drops the rest":
                writer.write(b"250 Ok\r\n")
            case "answers late":
                writer.write(b"250 Ok\r\n")
                await asyncio.sleep(LATE_SECONDS)
                if not writer.is_closing():
                    writer.write(b"250 Ok\r\n354 go\r\n")
            case "refuses":
                writer.write(b"250 Ok\r\n250 Ok\r\n503 5.5.0 <DATA>: Improper use of SMTP command pipelining\r\n")
            case "reads one line":
                writer.write(b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n")
            case "says 421":
                writer.write(b"250 Ok\r\n421 4.7.0 too much at once\r\n")
            case "closes" | "answers nothing":
                pass
        return self.habit not in {"closes", "says 421"}


@asynccontextmanager
async def running(habit: Habit) -> AsyncIterator[MisledSmtp]:
    """Run a server during the block."""
    misled = MisledSmtp(habit)
    async with await asyncio.start_server(misled.connected, "127.0.0.1", 0) as server:
        misled.port = server.sockets[0].getsockname()[1]
        try:
            yield misled
        finally:
            await misled.end()

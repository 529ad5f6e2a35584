# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An SMTP server that is correct unless its script says otherwise: it can throttle, stall, reset and disconnect."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from tests.stack import smtp_scripts
from tests.stack.change import Change
from tests.stack.ports import free_port
from tests.stack.received_mail import Mailbox, ReceivedMail
from tests.stack.smtp_dialogue import Dialogue

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from tests.stack.smtp_scripts import Script

DEFAULT_KEYWORDS = ("PIPELINING", "SIZE 41943040", "8BITMIME", "ENHANCEDSTATUSCODES")
_LONGEST_LINE = 2**24


class Options(msgspec.Struct, kw_only=True):
    """The behaviour of the server without a script; all options may be changed while it runs."""

    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    username: str | None = None
    password: str | None = None
    advertise: tuple[str, ...] = DEFAULT_KEYWORDS
    reply_delay: float = 0.0
    idle_timeout: float | None = None
    idle_reply: str = "451 4.4.2 Timeout waiting for data from client."


class ScriptedSmtp:
    """The listening server, the received commands and the accepted mails."""

    def __init__(self, script: Script, options: Options, port: int | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.script = script
        self.options = options
        self.mailbox = Mailbox()
        self.commands: list[list[str]] = []
        self.max_open_sessions = 0
        self._change = Change()
        self._open: dict[asyncio.Task[None], Dialogue] = {}
        self._server: asyncio.Server | None = None

    @property
    def mails(self) -> list[ReceivedMail]:
        """All accepted mails."""
        return self.mailbox.mails

    @property
    def sessions(self) -> int:
        """The number of sessions so far."""
        return len(self.commands)

    @property
    def open_sessions(self) -> int:
        """The number of open sessions."""
        return len(self._open)

    @property
    def held_sessions(self) -> int:
        """The number of sessions whose client has not closed its side."""
        return sum(dialogue.is_held_by_client for dialogue in self._open.values())

    async def wait_for_mails(self, count: int, timeout: float = 30.0) -> list[ReceivedMail]:
        """Return all mails when there are `count`."""
        return await self.mailbox.wait_for_mails(count, timeout)

    async def wait_for_open_sessions(self, count: int, timeout: float = 30.0) -> None:
        """Return when exactly `count` sessions are open."""
        await self._change.wait_until(
            lambda: self.open_sessions == count, timeout, lambda: f"{self.open_sessions} sessions open, not {count}"
        )

    def unsolicited(self, text: str, *, close: bool = True) -> int:
        """Send a line to every idle session; return their number."""
        idle = [dialogue for dialogue in self._open.values() if dialogue.is_idle]
        for dialogue in idle:
            dialogue.say_unasked(text, close=close)
        return len(idle)

    def reset_sessions(self) -> None:
        """Reset every connection (RST)."""
        for dialogue in self._open.values():
            dialogue.reset()

    async def start(self) -> None:
        """Listen."""
        implicit = self.options.tls if self.options.implicit_tls else None
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=implicit, limit=_LONGEST_LINE, backlog=1024
        )

    async def stop(self) -> None:
        """Stop listening and end every session, also silent ones."""
        if self._server is None:
            return
        self._server.close()
        for task, dialogue in self._open.items():
            dialogue.abort()
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        await self._server.wait_closed()
        self._server = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands: list[str] = []
        self.commands.append(commands)
        dialogue = Dialogue(self, commands, reader, writer)
        task = asyncio.create_task(_converse(dialogue), name=f"smtp.session-{self.sessions}")
        self._open[task] = dialogue
        self.max_open_sessions = max(self.max_open_sessions, self.open_sessions)
        task.add_done_callback(self._ended)
        self._change.notify()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        self._change.notify()


async def _converse(dialogue: Dialogue) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):  # clients may disconnect, also during the TLS handshake
        await dialogue.run()


@asynccontextmanager
async def running(
    script: Script = smtp_scripts.correct, *, port: int | None = None, options: Options | None = None
) -> AsyncIterator[ScriptedSmtp]:
    """Run a server during the block."""
    server = ScriptedSmtp(script, options or Options(), port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()

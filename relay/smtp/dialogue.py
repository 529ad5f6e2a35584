# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SMTP commands and replies (RFC 5321, 4.2) on a transport that aiosmtplib has connected, encrypted and logged in.

Replaces aiosmtplib's own protocol for the emails themselves. That protocol spends 120 us more on each email to parse
addresses and line ends that are correct already, and it drops unexpected data, so that a 421 goes unnoticed.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from asyncio import Transport
    from collections.abc import Callable, Sequence

MAX_REPLY_BYTES: Final = 65_536
CODE_DIGITS: Final = 3
SERVICE_CLOSING: Final = 421  # no further reply will come

_ONE_LINE = re.compile(rb"([0-9]{3}) ([^\r\n]*)\r\n")  # most replies, and all of it at once


class Reply(NamedTuple):
    """One reply; `text` holds the text of all its lines, joined by blanks."""

    code: int
    text: str


class DialogueLost(Exception):
    """The connection ended, or the server did not speak SMTP; no reply will come."""


class Dialogue(asyncio.Protocol):
    """Exchanges commands and replies: one by one, or several commands in one write and their replies (RFC 2920).

    `replies` holds the replies that came to the last command, or to the last commands, in order. `writes` counts the
    writes of the last exchange.
    """

    def __init__(self, transport: Transport) -> None:
        """Take over `transport`."""
        self.replies: list[Reply] = []
        self.writes = 0
        self.on_reply: Callable[[], None] | None = None  # called for each awaited reply that is not the last
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._buffer = b""
        self._lines: list[str] = []
        self._code = b""
        self._reply_bytes = 0
        self._awaited: asyncio.Future[None] | None = None
        self._awaited_replies = 0
        self._in_turn: Sequence[bytes] = ()
        self._lost: str | None = None
        self._ended = asyncio.Event()
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether the next command can be sent: the connection is open, and no unexpected data came."""
        return self._lost is None and not self._transport.is_closing()

    @property
    def is_writing(self) -> bool:
        """Whether a part of the last command or message is not sent yet."""
        return self._transport.get_write_buffer_size() > 0

    async def command(self, line: bytes) -> Reply:
        """Send a command, or a message with its final dot, and return the reply.

        Raises:
            DialogueLost: no reply will come.
        """
        await self.exchange(line, 1)
        return self.replies[0]

    async def exchange(self, lines: bytes, count: int) -> None:
        """Send `count` commands in one write; return when `replies` has the reply to each.

        Raises:
            DialogueLost: no more replies will come; `replies` has those that came.
        """
        self.replies, self._awaited_replies, self.writes = [], count, 0
        if not self.is_usable:
            raise DialogueLost(self._lost or "closed")
        self._awaited = self._loop.create_future()
        self._write(lines)
        try:
            await self._awaited
        finally:
            self._awaited = None

    async def exchange_in_turn(self, lines: Sequence[bytes]) -> None:
        """Send each command as soon as the one before it is accepted; return when the last one is.

        The task that waits is woken once, not for each reply.

        Raises:
            DialogueLost: no more replies will come.
            Exception: the error of a reply; the commands after it were not sent.
        """
        self._in_turn = lines
        try:
            await self.exchange(lines[0], 1)
        finally:
            self._in_turn = ()

    def error_of(self, line: bytes, reply: Reply) -> Exception | None:  # noqa: ARG002 - for those that override it
        """Return the error that the reply to a command of `exchange_in_turn` means, if any."""
        return None

    def abort(self) -> None:
        """Drop the connection at once."""
        self._lose("aborted")
        self._transport.abort()

    def close(self) -> None:
        """Close the connection after the data that is still to be sent; with TLS, after the server's close_notify."""
        self._lose("closed")
        self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by either side."""
        await self._ended.wait()

    def data_received(self, data: bytes) -> None:
        """Collect the lines of replies, and proceed when each awaited reply is complete."""
        if self._lost is not None:  # data that follows must not fill the memory
            return
        if not (self._buffer or self._lines) and (line := _ONE_LINE.fullmatch(data)):
            self._reply(Reply(int(line[1]), line[2].strip().decode("utf-8", "replace")))
        else:
            self._collect(data)
        if self._awaited and not self._awaited.done() and len(self.replies) == self._awaited_replies:
            self._proceed(self._awaited)

    def eof_received(self) -> bool:
        """Let the transport close."""
        self._lose("the server closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End the command that awaits a reply."""
        self._ended.set()
        self._lose(repr(error) if error else "the server closed the connection")

    def _collect(self, data: bytes) -> None:
        """Take lines, and parts of lines; the last line of a reply is the one without a hyphen after the code."""
        self._reply_bytes += len(data)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._line(line)
        if self._reply_bytes > MAX_REPLY_BYTES:
            self._lose(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        elif (self._buffer or self._lines) and not self._is_awaited:  # the next command would get the rest as its reply
            self._lose(f"unexpected data: {data[:80]!r}")

    def _line(self, line: bytes) -> None:
        code = line[:3]
        if len(code) < CODE_DIGITS or not code.isdigit() or line[3:4] not in {b" ", b"-", b"\r", b""}:
            self._lose(f"not an SMTP reply: {line[:80]!r}")
            return
        if self._lines and code != self._code:  # RFC 5321, 4.2.1: two replies, the first of which is cut off
            self._lose(f"a reply of two codes: {self._code.decode()} and {code.decode()}")
            return
        self._code = code
        self._lines.append(line[4:].strip().decode("utf-8", "replace"))
        if line[3:4] == b"-":
            return
        reply = Reply(int(code), " ".join(self._lines))
        self._lines, self._reply_bytes = [], 0
        self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        if not self._is_awaited:
            # A 421, or the reply to an abandoned command: every later reply would go to the wrong command.
            self._lose(f"unexpected reply: {reply.code} {reply.text}")
            return
        self.replies.append(reply)
        if len(self.replies) == self._awaited_replies:
            return
        if reply.code == SERVICE_CLOSING:
            self._lose(f"{reply.code} {reply.text}")
        elif self.on_reply:
            self.on_reply()

    def _proceed(self, awaited: asyncio.Future[None]) -> None:
        """Send the next command, or end the exchange: all replies to the commands so far came."""
        done = len(self.replies)
        error = self.error_of(self._in_turn[done - 1], self.replies[-1]) if self._in_turn else None
        if error:
            awaited.set_exception(error)
        elif done >= len(self._in_turn):
            awaited.set_result(None)
        elif not self.is_usable:
            awaited.set_exception(DialogueLost(self._lost or "closed"))
        else:
            self._awaited_replies += 1
            self._write(self._in_turn[done])

    def _write(self, lines: bytes) -> None:
        self.writes += 1
        self._transport.write(lines)

    @property
    def _is_awaited(self) -> bool:
        """Whether a further reply is awaited."""
        return self._awaited is not None and not self._awaited.done() and len(self.replies) < self._awaited_replies

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        if self._awaited and self._is_awaited:
            self._awaited.set_exception(DialogueLost(self._lost))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: commands and replies (RFC 5321, 4.2) on a transport that aiosmtplib has connected, secured and logged in.

Replaces aiosmtplib's own protocol for the mails themselves: that one spends 120 us more a mail on parsing addresses
and line ends that are right already, and drops what a server says unasked, so that a farewell goes unnoticed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from asyncio import Transport

MAX_REPLY_BYTES: Final = 65_536
CODE_DIGITS: Final = 3


class Reply(NamedTuple):
    """One reply; `text` is that of all its lines, joined by blanks."""

    code: int
    text: str


class DialogueLost(Exception):
    """The connection ended, or what came over it is no SMTP; no reply will come."""


class Dialogue(asyncio.Protocol):
    """Takes a transport over; one command is under way at a time."""

    def __init__(self, transport: Transport) -> None:
        """Read from `transport` from now on."""
        self._transport = transport
        self._buffer = b""
        self._lines: list[str] = []
        self._reply_bytes = 0
        self._awaited: asyncio.Future[Reply] | None = None
        self._lost: str | None = None
        transport.set_protocol(self)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing came unasked and the server has not hung up."""
        return self._lost is None and not self._transport.is_closing()

    async def command(self, line: bytes) -> Reply:
        """Send a command, or a message with its final dot, and return the reply.

        Raises:
            DialogueLost: there will be none.
        """
        if not self.is_quiet:
            raise DialogueLost(self._lost or "closed")
        self._awaited = asyncio.get_running_loop().create_future()
        self._transport.write(line)
        try:
            return await self._awaited
        finally:
            self._awaited = None

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._lose("aborted")
        self._transport.abort()

    def close(self) -> None:
        """Close the connection in order."""
        self._lose("closed")
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Collect lines; the last line of a reply is the one without a hyphen after the code."""
        if self._lost is not None:  # a kept connection may be flooded until somebody looks at it
            return
        self._reply_bytes += len(data)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._line(line)
        if self._reply_bytes > MAX_REPLY_BYTES:
            self._lose("endless reply")
        elif (self._buffer or self._lines) and not self._is_awaited:  # the rest of it would be taken for an answer
            self._lose(f"said unasked: {data[:80]!r}")

    def eof_received(self) -> bool:
        """Let the transport close."""
        self._lose("the server closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever awaits a reply."""
        self._lose(repr(error) if error else "the server closed the connection")

    def _line(self, line: bytes) -> None:
        code = line[:3]
        if len(code) < CODE_DIGITS or not code.isdigit() or line[3:4] not in {b" ", b"-", b"\r", b""}:
            self._lose(f"no SMTP reply: {line[:80]!r}")
            return
        self._lines.append(line[4:].strip().decode("utf-8", "replace"))
        if line[3:4] == b"-":
            return
        reply = Reply(int(code), " ".join(self._lines))
        self._lines, self._reply_bytes = [], 0
        if self._awaited and not self._awaited.done():
            self._awaited.set_result(reply)
        else:  # a farewell, or the answer to a command that was given up: the next answer would be taken for another's
            self._lose(f"said unasked: {reply.code} {reply.text}")

    @property
    def _is_awaited(self) -> bool:
        return self._awaited is not None and not self._awaited.done()

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        if self._awaited and not self._awaited.done():
            self._awaited.set_exception(DialogueLost(self._lost))

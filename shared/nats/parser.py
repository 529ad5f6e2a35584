# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The parser of nats-py with corrections; the table in `client` has each of them.

It passes messages on while their bytes are in the buffer of the socket, and leaves all other commands to nats-py.
"""

from __future__ import annotations

import re
from typing import Any, Final

from nats.errors import ProtocolError
from nats.protocol import parser

LARGE_BYTES: Final = 16_384  # a larger message may be refused before its payload is read

# Only blanks and tabs separate the words of a protocol line; nats-py splits at any white space.
parser.MSG_RE = re.compile(rb"MSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
parser.HMSG_RE = re.compile(
    rb"HMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)

Words = tuple[bytes, ...]
"""Of the line of a message, without its verb."""


class Parser(parser.Parser):
    """Copies each message once out of the buffer of the socket, and one that the client refuses never."""

    nc: Any  # the client

    def reset(self) -> None:
        """Begin with a new connection."""
        super().reset()
        self._line = b""  # the first bytes of a command
        self._rest = b""  # another command than a message, and all that follows
        self._message: Words | None = None  # of an incomplete message; None if it is refused
        self._pieces: list[bytes] = []
        self._missing = 0  # bytes of the message, with its line end

    async def parse(self, data: bytes = b"") -> None:
        """Pass on the messages, and answer the other commands, in their order."""
        self._rest = await self._messages(data)
        while self._rest:  # also a reset empties it, such as after an error from the server
            line, end, self._rest = self._rest.partition(b"\n")
            await super().parse(line + end)
            if self.buf:
                raise ProtocolError("nats: unknown protocol")
            self._rest = await self._messages(self._rest)

    def feed(self, data: memoryview) -> bytes:
        """Pass on the messages at the start of `data`; return a copy of the rest, from another command on."""
        try:
            self._messages(data).send(None)
        except StopIteration as end:
            return bytes(end.value)
        raise AssertionError("nats-py waits only in subscriptions of JetStream, and there are none")

    async def _messages(self, data: bytes | memoryview) -> bytes:
        """Do the work of `feed`."""
        if self._line:
            data, self._line = b"".join((self._line, data)), b""
        position = await self._continue(data) if self._missing else 0
        while line := parser.MSG_RE.match(data, position) or parser.HMSG_RE.match(data, position):
            words, begin = line.groups(), line.end()
            size = int(words[-1])
            position = begin + size + parser.CRLF_SIZE
            if size <= LARGE_BYTES and position <= len(data):
                await self._pass_on(words, bytes(data[begin : begin + size]))
            else:
                self._message, self._pieces, self._missing = self._admitted(words, size), [], size + parser.CRLF_SIZE
                position = begin + await self._continue(data[begin:])
        rest = bytes(data[position:])
        if b"\n" not in rest:
            self._line, rest = rest, b""
        return rest

    def _admitted(self, words: Words, size: int) -> Words | None:
        return None if size > LARGE_BYTES and self.nc.refuses(int(words[1]), words[3] or b"", size) else words

    async def _continue(self, data: bytes | memoryview) -> int:
        """Add to the incomplete message, and pass it on when it is complete; return how many bytes were used."""
        used = min(self._missing, len(data))
        if self._message:
            self._pieces.append(bytes(data[: min(used, max(0, self._missing - parser.CRLF_SIZE))]))
        self._missing -= used
        if self._message and not self._missing:
            payload, self._pieces = b"".join(self._pieces), []
            await self._pass_on(self._message, payload)
        return used

    async def _pass_on(self, words: Words, payload: bytes) -> None:
        subject, sid, _, reply, size, *total = words
        headers = b""
        if total:
            headers, payload = payload[: int(size)], payload[int(size) :]
        if not self.nc.deliver(int(sid), subject, reply or b"", payload, headers):
            await self.nc._process_msg(int(sid), subject, reply or b"", payload, headers or None)  # noqa: SLF001 - as nats-py does


def payload_bytes(command: bytes) -> int:
    """Return the size of the message that a command publishes, with its headers; 0 for other commands."""
    if not command.startswith((b"PUB ", b"HPUB ")):
        return 0
    return int(command[: command.index(b"\r\n")].rpartition(b" ")[2])

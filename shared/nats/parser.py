# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The parser of nats-py with corrections; the table in `client` has each of them."""

from __future__ import annotations

import re
from typing import Any

from nats.protocol import parser

# Only blanks and tabs separate the words of a protocol line; nats-py splits at any white space.
parser.MSG_RE = re.compile(rb"MSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
parser.HMSG_RE = re.compile(
    rb"HMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class Parser(parser.Parser):
    """Copies each message once, out of the pieces in which it arrived."""

    def reset(self) -> None:
        """Begin with a new connection."""
        super().reset()
        self._pieces: list[bytes | bytearray] = []  # of an incomplete message
        self._size = 0

    async def parse(self, data: bytes = b"") -> None:
        """Pass each message on, and answer each command; keep the rest of the bytes."""
        position = 0
        if self._pieces:
            position = await self._collect(data)
            if self._pieces:
                return
        if not self.buf and self.state == parser.AWAITING_CONTROL_LINE:
            position = await self._pass_messages(data, position)
        rest: Any = memoryview(data)[position:] if position else data  # nats-py only adds it to its buffer
        await super().parse(rest)
        if self.buf and self.state == parser.AWAITING_MSG_PAYLOAD:
            self._pieces, self._size, self.buf = [self.buf], len(self.buf), bytearray()

    async def _pass_messages(self, data: bytes, position: int) -> int:
        """Pass on complete messages without headers; return the position of the first other byte."""
        while line := parser.MSG_RE.match(data, position):
            subject, sid, _, reply, size = line.groups()
            begin, end = line.end(), line.end() + int(size)
            if end + parser.CRLF_SIZE > len(data):
                break
            position = end + parser.CRLF_SIZE
            await self.nc._process_msg(int(sid), subject, reply or b"", data[begin:end], None)  # noqa: SLF001 - as nats-py does
        return position

    async def _collect(self, data: bytes) -> int:
        """Add a piece to the incomplete message, pass it on when it is complete; return how many bytes were used."""
        missing = self.needed + parser.CRLF_SIZE - self._size
        if len(data) < missing:
            self._pieces.append(data)
            self._size += len(data)
            return len(data)
        message = b"".join([*self._pieces, memoryview(data)[: max(0, missing - parser.CRLF_SIZE)]])
        headers, payload = message[: self.header_needed], message[self.header_needed : self.needed]
        self._pieces, self.header_needed, self.state = [], 0, parser.AWAITING_CONTROL_LINE
        del message
        subject, sid, reply = self.msg_arg["subject"], self.msg_arg["sid"], self.msg_arg["reply"]
        await self.nc._process_msg(sid, subject, reply, payload, headers or None)  # noqa: SLF001
        return missing

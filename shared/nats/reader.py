# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads a socket into one buffer, and has the messages in it parsed before the next bytes are read into it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Parse = Callable[[memoryview], bytes]
    """Takes messages out of received bytes; returns the rest, which begins with another command."""

BUFFER_BYTES: Final = 262_144  # larger ones do not stay in the cache of the processor


class Reader(asyncio.StreamReader):
    """Gives received bytes to `parse` while `read` waits for bytes, and keeps the rest for `read` and `readline`.

    asyncio's own reader joins all bytes in one buffer, and copies each part that is read from it.
    """

    def __init__(self, buffer: memoryview, parse: Parse, read_ahead: int) -> None:
        """Use a buffer for the bytes of the socket; if twice `read_ahead` bytes are kept, reading pauses."""
        super().__init__()
        self.buffer = buffer
        self._parse = parse
        self._read_ahead = read_ahead
        self._is_parsing = False
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._changed = asyncio.Event()
        self._source: Any = None
        self._is_paused = False

    def set_transport(self, transport: asyncio.BaseTransport) -> None:
        """Note where the bytes come from."""
        super().set_transport(transport)
        self._source = transport

    def buffer_updated(self, size: int) -> None:
        """Take `size` bytes out of the buffer."""
        data = self.buffer[:size]
        rest = self._parse(data) if self._is_parsing else bytes(data)
        if rest:
            self.feed_data(rest)

    def feed_data(self, data: Any) -> None:
        """Keep `bytes` that were received."""
        self._is_parsing = False  # what follows is parsed after these
        self._pieces.append(data)
        self._unread += len(data)
        self._changed.set()
        if self._unread > 2 * self._read_ahead and not self._is_paused:
            self._is_paused = True
            self._source.pause_reading()

    def feed_eof(self) -> None:
        """Note that no more bytes come."""
        super().feed_eof()
        self._changed.set()

    def set_exception(self, exc: Exception) -> None:
        """Note why no more bytes come."""
        super().set_exception(exc)
        self._changed.set()

    def at_eof(self) -> bool:
        """Return whether all bytes were read, and no more come."""
        return not self._pieces and super().at_eof()

    async def read(self, n: int = -1) -> bytes:  # noqa: ARG002 - asyncio's signature
        """Return the next piece, of any size; empty at the end."""
        while not self._pieces and not super().at_eof():
            self._is_parsing = True
            try:
                await self._change()
            finally:
                self._is_parsing = False
        piece = self._pieces.popleft() if self._pieces else b""
        self._keep(self._unread - len(piece))
        return piece

    async def readline(self) -> bytes:
        """Return the next line; if there is none, all bytes before the end."""
        while not any(b"\n" in piece for piece in self._pieces) and not super().at_eof():
            await self._change()
        line, end, rest = b"".join(self._pieces).partition(b"\n")
        self._pieces = deque([rest] if rest else [])
        self._keep(len(rest))
        return line + end

    async def _change(self) -> None:
        """Wait for bytes or the end.

        Raises:
            OSError: the connection was lost.
        """
        if error := self.exception():
            raise error
        self._changed.clear()
        await self._changed.wait()

    def _keep(self, unread: int) -> None:
        self._unread = unread
        if self._is_paused and unread <= self._read_ahead:
            self._is_paused = False
            self._source.resume_reading()


class ReaderProtocol(asyncio.BufferedProtocol):
    """Reads into the buffer of a reader; passes all else to asyncio's protocol for streams, which has no buffer."""

    def __init__(self, reader: Reader) -> None:
        """Give what is received to a reader."""
        self.reader = reader
        self.of_streams = asyncio.StreamReaderProtocol(reader, loop=asyncio.get_running_loop())
        self.connection_made = self.of_streams.connection_made  # type: ignore[method-assign]
        self.connection_lost = self.of_streams.connection_lost  # type: ignore[method-assign]
        self.eof_received = self.of_streams.eof_received  # type: ignore[method-assign]
        self.pause_writing = self.of_streams.pause_writing  # type: ignore[method-assign]
        self.resume_writing = self.of_streams.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where to write the next bytes."""
        return self.reader.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes before the next ones are written."""
        self.reader.buffer_updated(nbytes)

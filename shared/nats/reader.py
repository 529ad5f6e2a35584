# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A stream reader that keeps received bytes in the pieces in which they arrived, and copies none of them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

READ_AHEAD_BYTES: Final = 1_000_000  # with twice as many, reading pauses until they are taken


class PieceReader(asyncio.StreamReader):
    """asyncio's own reader joins all bytes in one buffer, and copies each part that is read from it."""

    def __init__(self, take: Callable[[bytes], int] = lambda _: 0) -> None:
        """Begin without bytes. While `read` waits, `take` may take bytes as they arrive; it returns how many."""
        super().__init__()
        self._take = take
        self._is_awaited = False
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._changed = asyncio.Event()
        self._source: Any = None
        self._is_paused = False

    def set_transport(self, transport: asyncio.BaseTransport) -> None:
        """Note where the bytes come from."""
        super().set_transport(transport)
        self._source = transport

    def feed_data(self, data: Any) -> None:
        """Keep `bytes` that were received."""
        if self._is_awaited and not self._pieces and (taken := self._take(data)):
            if taken == len(data):
                return
            data = data[taken:]
        self._pieces.append(data)
        self._unread += len(data)
        self._changed.set()
        if self._unread > 2 * READ_AHEAD_BYTES and not self._is_paused:
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
        self._is_awaited = True
        try:
            while not self._pieces and not super().at_eof():
                await self._change()
        finally:
            self._is_awaited = False
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
        if self._is_paused and unread <= READ_AHEAD_BYTES:
            self._is_paused = False
            self._source.resume_reading()

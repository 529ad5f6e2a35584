# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Holds up publishing while a stream stores nothing, since plain subscribers get each message that is tried."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from shared.errors import NotPermitted, StoreUnavailable
from shared.kv import jetstream

if TYPE_CHECKING:
    from shared.nats.inbox import Inbox

LOOK_AGAIN_SECONDS: Final = 0.5
UNCHANGED_SECONDS: Final = 30.0  # after which a stream is tried again although it looks as when it refused a message


class StreamGate:
    """Is open until `close`; then until the stream answers with another state than that in which it was closed last."""

    def __init__(self, inbox: Inbox, stream: str) -> None:
        """Ask for the state of `stream` over `inbox`."""
        self._inbox = inbox
        self._stream = stream
        self._looking = asyncio.Lock()
        self._is_open = True
        self._look_at = 0.0  # not before this time
        self._why = ""
        self._state = b""  # when the gate was opened after it had been closed
        self._state_until = 0.0

    def close(self) -> None:
        """Note that the stream has not stored a message."""
        self._is_open = False

    def open(self) -> None:
        """Note that the stream has stored a message."""
        self._is_open = True
        self._state = b""

    async def wait_until_open(self) -> None:
        """Return if a message may be published; ask for the state of the stream at most every LOOK_AGAIN_SECONDS.

        Raises:
            StoreUnavailable: the stream does not answer, or has not changed since it stored nothing.
        """
        if not self._is_open:
            async with self._looking:
                await self._open_or_raise()

    async def _open_or_raise(self) -> None:
        if self._is_open:  # another task has looked meanwhile
            return
        if time.monotonic() < self._look_at:
            raise StoreUnavailable(self._why)
        try:
            await self._look()
        except NotPermitted:
            self._is_open = True  # then only a message shows whether the stream is back
        except StoreUnavailable as error:
            self._look_at, self._why = time.monotonic() + LOOK_AGAIN_SECONDS, str(error)
            raise

    async def _look(self) -> None:
        reply = await self._inbox.request(f"$JS.API.STREAM.INFO.{self._stream}")
        info = jetstream.decode_state(reply.data)
        if info.error:
            raise StoreUnavailable(f"stream {self._stream}: {info.error.description} ({info.error.err_code})")
        state = b"%b %b %b" % (info.created.encode(), info.config, info.state)
        if state == self._state and time.monotonic() < self._state_until:
            raise StoreUnavailable(f"stream {self._stream} is as it was when it stored nothing")
        self._state, self._state_until = state, time.monotonic() + UNCHANGED_SECONDS
        self._is_open = True

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Whether the server has read what was published before it lost the connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shared.nats.client import ReconnectingClient

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 10.0  # as the callers have


class ReadReceipts:
    """Waits for the answer to a PING, or for the next connection."""

    def __init__(self, client: ReconnectingClient) -> None:
        """Send on this client."""
        self._client = client
        self._pongs: set[asyncio.Future[bool]] = set()
        self._reconnects: set[asyncio.Future[None]] = set()

    async def has_read(self) -> bool:
        """Return True when the server has read everything; False after a reconnect, or after PATIENCE_SECONDS."""
        loop = asyncio.get_running_loop()
        pong: asyncio.Future[bool] = loop.create_future()
        reconnect: asyncio.Future[None] = loop.create_future()
        self._pongs.add(pong)
        self._reconnects.add(reconnect)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._client.is_connected:
                    await self._client.ping(pong)
                    if await pong:
                        return True
                await reconnect
        except TimeoutError:
            log.debug("nats.reply_unread")
        finally:
            self._pongs.discard(pong)
            self._reconnects.discard(reconnect)
        return False

    def disconnected(self) -> None:
        """Note that the connection was lost."""
        for pong in self._pongs:
            if not pong.done():
                pong.set_result(False)

    def reconnected(self) -> None:
        """Note that a server is connected again."""
        for reconnect in self._reconnects:
            if not reconnect.done():
                reconnect.set_result(None)

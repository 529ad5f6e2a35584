# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The server's current max_payload. A server that loads its configuration again reports a new limit to no client.

A larger message makes it close the connection. Each connection begins with INFO, which has the limit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from shared import decoding

if TYPE_CHECKING:
    from shared.nats.client import ReconnectingClient, Server, Tls

log = logging.getLogger(__name__)

LARGE_BYTES: Final = 4096  # smaller messages are sent without asking: no useful limit is below
FRESH_SECONDS: Final = 2.0  # an answer costs the server a connection
UNKNOWN_SECONDS: Final = 60.0  # before the next try, if the server did not answer
GREETING_SECONDS: Final = 1.0
MAX_GREETING_BYTES: Final = 65_536
INFO: Final = b"INFO "


class _Greeting(msgspec.Struct, frozen=True):
    """What a server sends first."""

    max_payload: int


_decode = decoding.decoder(_Greeting)


class PayloadLimit:
    """Asks the connected server, at most once in FRESH_SECONDS."""

    def __init__(self, client: ReconnectingClient) -> None:
        """Set the limit of this client."""
        self._client = client
        self._asking = asyncio.Lock()
        self._next_at = 0.0

    async def of(self, size: int) -> int:
        """Return the limit; ask for it if a message of `size` bytes is large, or over the limit that is known."""
        if (size > LARGE_BYTES or size > self._client.max_payload) and self._is_due():
            async with self._asking:
                if self._is_due():
                    await self._ask()
        return self._client.max_payload

    def _is_due(self) -> bool:
        return self._client.is_connected and time.monotonic() >= self._next_at

    async def _ask(self) -> None:
        pause = UNKNOWN_SECONDS
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                line = await _first_line(self._client.peer, self._client.tls)
            self._client.limit_payload(_decode(line.removeprefix(INFO)).max_payload)
            pause = FRESH_SECONDS
        except (OSError, ValueError, decoding.Malformed, TimeoutError) as error:
            log.debug("nats.limit_unknown", extra={"error": repr(error)})
        self._next_at = time.monotonic() + pause


async def _first_line(server: Server, tls: Tls | None) -> bytes:
    """Connect, and return the first line. The handshake is completed, since a server logs one that is not.

    Raises:
        OSError: there was no connection, or no handshake.
        ValueError: the line is too long.
    """
    reader, writer = await asyncio.open_connection(*server, limit=MAX_GREETING_BYTES)
    try:
        line = b"" if tls and tls.is_first else await reader.readline()
        if tls:
            await writer.start_tls(tls.context, server_hostname=tls.name)
        return line or await reader.readline()
    finally:
        writer.close()  # after the rest of the handshake was sent

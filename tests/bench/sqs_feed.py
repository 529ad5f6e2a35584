# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Fill the queue of the SQS process and wait until it is empty again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from tests.bench.sqs_server import LONGEST_LINE, Emptied, Order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BODIES_PER_LINE = 500


class Feed:
    """The client end of the control socket."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self.queue_url = f"{self.endpoint_url}/000000000000/engagement-events"
        self._reader = reader
        self._writer = writer

    async def hold(self, bodies: Sequence[str]) -> None:
        """Prepare messages, so that a full queue can appear at once."""
        for start in range(0, len(bodies), BODIES_PER_LINE):
            await self._order(Order(hold=list(bodies[start : start + BODIES_PER_LINE])))

    async def release(self) -> None:
        """Put the prepared messages into the queue."""
        await self._order(Order(release=True))

    async def until_empty(self) -> Emptied:
        """Return when all messages are deleted."""
        return await self._order(Order(until_empty=True))

    async def _order(self, order: Order) -> Emptied:
        self._writer.write(msgspec.json.encode(order) + b"\n")
        return msgspec.json.decode(await self._reader.readline(), type=Emptied)


@asynccontextmanager
async def connected(port: int, socket: str) -> AsyncIterator[Feed]:
    """Connect to the process during the block."""
    reader, writer = await asyncio.open_unix_connection(socket, limit=LONGEST_LINE)
    try:
        yield Feed(port, reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()

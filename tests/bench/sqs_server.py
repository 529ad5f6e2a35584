# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The stack's SQS endpoint in its own process. `python -m tests.bench.sqs_server PORT SOCKET`.

The socket (lines of JSON) receives the messages, puts them into the queue at once, and reports when it is empty.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from tests.stack import sqs_endpoint
from tests.stack.sqs_queue import Queue

if TYPE_CHECKING:
    from tests.stack.sqs_endpoint import SqsEndpoint

LONGEST_LINE = 2**26
LONGEST_SECONDS = 600.0


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prepare these messages, or put the prepared ones into the queue, or wait until the queue is empty."""

    hold: list[str] = []
    release: bool = False
    until_empty: bool = False


class Emptied(msgspec.Struct, frozen=True, kw_only=True):
    """The seconds since the release, and of each message the time from its receipt to its deletion."""

    seconds: float
    latencies: list[float]


class TimedQueue(Queue):
    """A queue that records how long each message was in flight."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.latencies: list[float] = []

    def delete(self, handle: str) -> None:
        """Delete a message and record its time in flight."""
        message = self._find(handle)
        super().delete(handle)
        if message:
            self.latencies.append(time.time() - message.first_received_at)


class Control:
    """Executes the orders from the socket."""

    def __init__(self, queue: TimedQueue) -> None:
        self._queue = queue
        self._held: list[str] = []
        self._released_at = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Execute orders until the client disconnects."""
        while line := await reader.readline():
            answer = await self._follow(msgspec.json.decode(line, type=Order))
            writer.write(msgspec.json.encode(answer) + b"\n")
        writer.close()

    async def _follow(self, order: Order) -> Emptied:
        self._held += order.hold
        if order.release:
            self._released_at = time.perf_counter()
            for body in self._held:
                self._queue.send(body)
            self._held = []
        if order.until_empty:
            await self._queue.wait_until_empty(LONGEST_SECONDS)
            latencies, self._queue.latencies = self._queue.latencies, []
            return Emptied(seconds=time.perf_counter() - self._released_at, latencies=latencies)
        return Emptied(seconds=0, latencies=[])


async def main(port: int, socket: str) -> None:
    """Serve until killed."""
    async with sqs_endpoint.running(port=port) as sqs:
        control = Control(_timed(sqs))
        server = await asyncio.start_unix_server(control.serve, socket, limit=LONGEST_LINE)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await server.serve_forever()


def _timed(sqs: SqsEndpoint) -> TimedQueue:
    queue = TimedQueue(sqs_endpoint.QUEUE)
    sqs.queues[sqs_endpoint.QUEUE] = queue
    return queue


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))  # no uvloop: the stack needs asyncio's transports

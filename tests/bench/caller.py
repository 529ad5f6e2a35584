# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The load generator: callers on one NATS connection, with the least work for each request that nats-py allows."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from nats.aio.client import Client

from tests.bench import proc, row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from nats.aio.msg import Msg

    from tests.bench.row import Sample

PATIENCE_SECONDS = 120.0


class Request(NamedTuple):
    """One request and its subject."""

    subject: str
    payload: bytes = b""


class Load(NamedTuple):
    """The result of a load: seconds in total, latencies in the order of the replies, CPU time of the processes."""

    seconds: float
    latencies: list[float]
    cpu_seconds: float

    def sample(self) -> Sample:
        """Return it as a rate."""
        return row.of_rate(self.latencies, self.seconds, self.cpu_seconds)


class Caller:
    """Sends requests with one inbox; replies are delivered at once, without a queue or a task."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._prefix = f"{client.new_inbox()}."
        self._waiting: dict[str, Callable[[Msg], None]] = {}
        self._number = 0

    async def open(self) -> None:
        """Subscribe to the inbox."""
        await self.client.subscribe(f"{self._prefix}*", future=_Dispatch(self._receive))  # type: ignore[arg-type]
        await self.client.flush()

    async def ask(self, request: Request) -> bytes:
        """Return the body of the reply.

        Raises:
            RuntimeError: the reply is an error.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def take(msg: Msg) -> None:
            if not future.done():  # else its caller is cancelled, and an error would end the reading of nats-py
                future.set_result(msg.data)

        token = await self._publish(request, take)
        try:
            reply = await future
        finally:
            del self._waiting[token]
        if reply[:9] in {b'{"error":', b""}:
            raise RuntimeError(f"{request.subject}: {reply!r}")
        return reply

    async def collect(self, request: Request, is_last: Callable[[Msg], bool]) -> list[Msg]:
        """Return every reply up to the last."""
        replies: list[Msg] = []
        ended = asyncio.get_running_loop().create_future()

        def take(msg: Msg) -> None:
            replies.append(msg)
            if is_last(msg):
                ended.set_result(None)

        token = await self._publish(request, take)
        await ended
        del self._waiting[token]
        return replies

    async def load(self, requests: Iterable[Request], callers: int, watched: Sequence[int] = ()) -> Load:
        """Send the requests by a number of callers, each one request at a time."""
        left = iter(requests)
        latencies: list[float] = []
        cpu = proc.cpu_seconds(watched)
        started = time.perf_counter()
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(self._ask_all(left, latencies))
        return Load(time.perf_counter() - started, latencies, proc.cpu_seconds(watched) - cpu)

    async def _ask_all(self, left: Iterator[Request], latencies: list[float]) -> None:
        for request in left:
            began = time.perf_counter()
            await self.ask(request)
            latencies.append(time.perf_counter() - began)

    async def _publish(self, request: Request, take: Callable[[Msg], None]) -> str:
        self._number += 1
        token = str(self._number)
        self._waiting[token] = take
        await self.client.publish(request.subject, request.payload, self._prefix + token)
        return token

    def _receive(self, msg: Msg) -> None:
        take = self._waiting.get(msg.subject[len(self._prefix) :])
        if take:
            take(msg)


class _Dispatch:
    """Replaces the future of a single reply in nats-py, which sets its result for every message."""

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        self._on_message = on_message

    def cancelled(self) -> bool:
        return False

    def set_result(self, msg: Msg) -> None:
        self._on_message(msg)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Caller]:
    """Connect during the block."""
    client = Client()
    await client.connect(url, allow_reconnect=False, skip_subject_validation=True)
    caller = Caller(client)
    try:
        await caller.open()
        yield caller
    finally:
        await client.close()

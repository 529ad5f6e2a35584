# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Buckets in memory, with revisions, whose requests wait until a test lets them happen, one at a time, in any order.

A client can be killed: some of its requests under way still happen, but it gets no reply and sends nothing more.
"""

# ruff: noqa: D102 - the methods are those of Bucket and StreamFollower
from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from shared.errors import KeyMissing, RevisionConflict, StoreUnavailable
from shared.kv.bucket import Entry
from shared.kv.jetstream import StreamInfo
from tracker.queries.stream_follower import NotFollowed, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from tracker.queries.stream_follower import StreamFollower

T = TypeVar("T")

_client: ContextVar[Client] = ContextVar("client")


class Client:
    """The name of a process, and whether it was killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.task: asyncio.Task[Any] | None = None

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run the process."""

        async def run() -> Any:
            _client.set(self)
            return await work

        self.task = asyncio.get_running_loop().create_task(run(), name=self.name)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.task is not None and not self.task.done()


class Request(NamedTuple):
    """A request under way: `act` is what it does in the bucket."""

    client: Client
    act: Callable[[], Any]
    reply: asyncio.Future[Any]


class Network:
    """The requests under way, of all clients to all buckets."""

    def __init__(self) -> None:
        self.waiting: list[Request] = []

    async def send(self, act: Callable[[], T]) -> T:
        """Return the result of a request when the test has let it happen."""
        client = _client.get()
        if client.killed:
            raise asyncio.CancelledError
        request = Request(client, act, asyncio.get_running_loop().create_future())
        self.waiting.append(request)
        result: T = await request.reply
        return result

    def let_happen(self, number: int, *, lost: bool = False) -> None:
        """Carry out one of the requests; with `lost` its client gets no reply in time."""
        request = self.waiting.pop(number % len(self.waiting))
        try:
            result = request.act()
        except Exception as error:  # noqa: BLE001 - the reply of any request
            if not request.reply.done():
                request.reply.set_exception(StoreUnavailable("lost") if lost else error)
            return
        if lost and not request.reply.done():
            request.reply.set_exception(StoreUnavailable("lost"))
        elif not request.reply.done():
            request.reply.set_result(result)

    def kill(self, client: Client, arrived: int) -> None:
        """Kill a client; of its requests under way this number arrives."""
        client.killed = True
        under_way = [one for one in self.waiting if one.client is client]
        self.waiting = [one for one in self.waiting if one.client is not client]
        for request in under_way[:arrived]:
            try:
                request.act()
            except Exception:  # noqa: BLE001, S112 - no client is left to see it
                continue
        if client.task:
            client.task.cancel()


class MemoryBucket:
    """The methods of `Bucket` that retention, the readers and the index writer use."""

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.stream_name = name
        self.values: dict[str, tuple[bytes | None, int]] = {}  # None is a deletion marker
        self.sequence = 0
        self.purges = 0
        self.on_write: list[Callable[[Write], None]] = []
        self._network = network

    def put(self, key: str, value: bytes | None, revision: int | None = None) -> int:
        """Write at once."""
        last = self.values.get(key, (None, 0))[1]
        if revision is not None and revision != last:
            raise RevisionConflict(key)
        self.sequence += 1
        self.values[key] = value, self.sequence
        for notify in self.on_write:
            notify(Write(key, value, self.sequence, revision))
        return self.sequence

    def read(self, key: str) -> Entry:
        """Read at once."""
        value, revision = self.values.get(key, (None, 0))
        if value is None:
            raise KeyMissing(key, revision)
        return Entry(value, revision)

    def read_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Read those that there are, at once."""
        return {one: self.read(one) for one in keys if self.values.get(one, (None, 0))[0] is not None}

    async def info(self) -> StreamInfo:
        return await self._network.send(lambda: StreamInfo(created="once"))

    async def max_value_bytes(self) -> int:
        return 1_000_000

    async def ttl_seconds(self) -> float:
        return 0.0

    async def find(self, key: str) -> bytes | None:
        return await self._network.send(lambda: self.values.get(key, (None, 0))[0])

    async def get_from_leader(self, key: str) -> Entry:
        return await self._network.send(lambda: self.read(key))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        return await self._network.send(lambda: self.read_many(keys))

    async def get_matching(self, *filters: str) -> dict[str, Entry] | None:
        def matching() -> dict[str, Entry]:
            return self.read_many([key for key in self.values if any(_matches(one, key) for one in filters)])

        return await self._network.send(matching)

    async def create(self, key: str, value: bytes) -> int:
        return await self.update(key, value, 0)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._network.send(lambda: self.put(key, value, revision))

    async def rewrite(self, key: str, change: Callable[[bytes], tuple[bytes | None, T]]) -> T:
        while True:
            entry = await self.get_from_leader(key)
            value, result = change(entry.value)
            try:
                if value is not None:
                    await self.update(key, value, entry.revision)
            except RevisionConflict:
                continue
            return result

    async def delete(self, key: str, revision: int) -> None:
        await self._network.send(lambda: self.put(key, None, revision))

    async def purge(self, key: str, revision: int) -> bool:
        def remove() -> bool:
            if self.values.get(key, (None, 0))[1] not in range(1, revision + 1):
                return False
            del self.values[key]
            self.purges += 1
            return True

        return await self._network.send(remove)


class BucketWithoutBatches(MemoryBucket):
    """A bucket on a server that has no batch reads."""

    async def get_matching(self, *_filters: str) -> dict[str, Entry] | None:
        return None


class MemoryFollower:
    """A follower of a bucket; a write that is overwritten before its delivery is not delivered."""

    def __init__(self, network: Network, bucket: MemoryBucket, on_write: Callable[[Write], object]) -> None:
        self.is_lost = True
        self._network = network
        self._bucket = bucket
        self._on_write = on_write
        self._undelivered: dict[str, Write] = {}
        self._purges = 0
        bucket.on_write.append(self._written)

    async def start(self) -> None:
        self._undelivered.clear()
        self.is_lost, self._purges = False, self._bucket.purges

    async def stop(self) -> None:
        self.is_lost = True

    def deliver(self, count: int) -> None:
        """Deliver some of the writes."""
        for key in list(self._undelivered)[:count]:
            self._on_write(self._undelivered.pop(key))

    async def caught_up(self) -> None:
        sequence, purges = await self._network.send(lambda: (self._bucket.sequence, self._bucket.purges))
        if purges != self._purges or self.is_lost:
            self.is_lost = True
            raise NotFollowed("keys have left")
        self.deliver(sum(write.revision <= sequence for write in self._undelivered.values()))

    def _written(self, write: Write) -> None:
        self._undelivered.pop(write.key, None)
        if not self.is_lost:
            self._undelivered[write.key] = write


def follow(network: Network, followers: list[MemoryFollower]) -> Callable[..., StreamFollower]:
    """Return what `LiveCounts` follows a bucket with."""

    def start(bucket: Any, on_write: Callable[[Write], object], *, values: bool) -> Any:
        del values
        followers.append(MemoryFollower(network, bucket, on_write))
        return followers[-1]

    return start


def _matches(subject_filter: str, key: str) -> bool:
    tokens, wanted = key.split("."), subject_filter.split(".")
    return len(tokens) == len(wanted) and all(want in ("*", token) for token, want in zip(tokens, wanted, strict=True))

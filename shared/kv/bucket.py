# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the keys and values of one NATS KV bucket. Turns JetStream's answers into ours, once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shared.errors import KeyMissing, KeyTaken, RevisionConflict, ValueTooLarge
from shared.kv import batch_get, jetstream
from shared.kv.stream import BucketStream
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.kv.jetstream import StreamInfo
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from shared.telemetry.spans import Spans

CONFLICT_PATIENCE_SECONDS: Final = 4.0
SINGLE_READS_AT_ONCE: Final = 64

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """A value and the stream sequence that wrote it."""

    value: bytes
    revision: int


class Bucket:
    """Reads and writes the keys of one bucket. Every method may raise StoreUnavailable."""

    def __init__(self, inbox: Inbox, connection: Connection, name: str, spans: Spans = NO_SPANS) -> None:
        """Name the bucket; it need not exist yet."""
        self.name = name
        self.conflicts = 0  # how often a write came too late
        self._stream = BucketStream(inbox, connection, name, spans)
        self._batches = batch_get.Batches(inbox, self._stream)
        self._single_reads = asyncio.Semaphore(SINGLE_READS_AT_ONCE)

    @property
    def stream_name(self) -> str:
        """The name of the stream that holds the bucket."""
        return self._stream.name

    @property
    def subject_prefix(self) -> str:
        """The subject of a key, without the key."""
        return self._stream.prefix

    async def info(self) -> StreamInfo:
        """Ask the stream's leader for its configuration, state and time of creation."""
        return await self._stream.info()

    async def max_value_bytes(self) -> int:
        """Return how large a value may be: the bucket's own limit or the server's max_payload."""
        return await self._stream.max_value_bytes()

    async def get(self, key: str) -> Entry:
        """Return the value, from the server that is the leader if there is more than one.

        Raises:
            KeyMissing: there is none, says the leader.
        """
        config = await self._stream.config()
        if not config.allow_direct or config.num_replicas > 1:
            return await self.get_from_leader(key)
        reply = await self._stream.get_directly(key)
        headers = reply.headers or {}
        if jetstream.STATUS in headers or jetstream.is_deleted(headers):
            return await self.get_from_leader(key)
        return Entry(reply.data, int(headers[jetstream.SEQUENCE]))

    async def find(self, key: str) -> bytes | None:
        """Return the value if there is one, in one exchange; a follower that is behind may not have it yet."""
        config = await self._stream.config()
        if config.allow_direct:
            reply = await self._stream.get_directly(key)
            headers = reply.headers or {}
            if headers.get(jetstream.STATUS) == jetstream.NO_RESULTS or jetstream.is_deleted(headers):
                return None
            if jetstream.STATUS not in headers:
                return reply.data
        try:
            return (await self.get_from_leader(key)).value
        except KeyMissing:
            return None

    async def get_from_leader(self, key: str) -> Entry:
        """Return the value, read through the stream's leader: never an old one.

        Raises:
            KeyMissing: there is none.
        """
        reply = await self._stream.get_from_leader(key)
        if reply.error and reply.error.err_code == jetstream.NO_MESSAGE:
            raise KeyMissing(key)
        if reply.error or not reply.message:
            raise self._stream.unavailable(reply.error or jetstream.ApiError())
        if jetstream.was_deleted(reply.message):
            raise KeyMissing(key, reply.message.seq)
        return Entry(reply.message.data, reply.message.seq)

    async def create(self, key: str, value: bytes) -> int:
        """Write a key that holds no value; return its revision.

        Raises:
            KeyTaken: it holds one.
            ValueTooLarge: the value is over the limit.
        """
        try:
            return await self._write(key, value, 0)
        except RevisionConflict:  # the key is there, was deleted, or (with replicas) nothing of the sort is true
            return await self._create_after_conflict(key, value)

    async def _create_after_conflict(self, key: str, value: bytes) -> int:
        async for attempt in while_conflicting():
            with attempt:
                try:
                    taken = await self.get_from_leader(key)
                except KeyMissing as missing:
                    return await self._write(key, value, missing.revision)
                raise KeyTaken(key, taken.value, taken.revision)
        raise AssertionError("unreachable: AsyncRetrying returns or raises")

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Write a key whose last revision is still `revision`; return the new one.

        Raises:
            RevisionConflict: it is not, or the server says so.
            ValueTooLarge: the value is over the limit.
        """
        return await self._write(key, value, revision)

    async def delete(self, key: str, revision: int) -> None:
        """Delete a key whose last revision is still `revision`; a marker stays behind.

        Raises:
            RevisionConflict: it is not, or the server says so.
        """
        await self._write(key, b"", revision, {jetstream.OPERATION: "DEL"})

    async def rewrite(self, key: str, change: Callable[[bytes], tuple[bytes | None, T]]) -> T:
        """Read, change and write a value until it sticks; return the result of the change that did.

        `change` returns the new value, or None to leave the old one, and a result of its own.

        Raises:
            KeyMissing: there is no value.
            RevisionConflict: others were faster for as long as patience lasted.
            ValueTooLarge: what `change` returned is over the limit.
        """
        try:
            return await self._change(key, await self.get(key), change)
        except RevisionConflict:
            async for attempt in while_conflicting():
                with attempt:
                    return await self._change(key, await self.get_from_leader(key), change)
        raise AssertionError("unreachable: AsyncRetrying returns or raises")

    async def _change(self, key: str, entry: Entry, change: Callable[[bytes], tuple[bytes | None, T]]) -> T:
        value, result = change(entry.value)
        if value is not None:
            await self._write(key, value, entry.revision)
        return result

    async def _write(self, key: str, value: bytes, revision: int, more: dict[str, str] | None = None) -> int:
        headers = {jetstream.EXPECTED_REVISION: str(revision), **(more or {})}
        ack = await self._stream.write(key, value, headers)
        if not ack.error:
            return ack.seq
        if ack.error.err_code in jetstream.WRONG_LAST_SEQUENCE:
            self.conflicts += 1
            raise RevisionConflict(key)
        if ack.error.err_code == jetstream.MESSAGE_TOO_LARGE:
            self._stream.forget()
            raise ValueTooLarge(f"{len(value)} bytes exceed the limit of bucket {self.name}")
        raise self._stream.unavailable(ack.error)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the values of those keys that have one, in batches of direct gets, none of them out of date."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), batch_get.MAX_SUBJECTS):
            some = keys[start : start + batch_get.MAX_SUBJECTS]
            batch = await self.get_matching(*some)
            found.update(batch if batch is not None else await self._get_each(some))
        return found

    async def get_matching(self, *filters: str) -> dict[str, Entry] | None:
        """Return the values of the keys that match subject filters; None if the server does not give all at once."""
        messages = await self._batches.read(filters)
        if messages is None:
            return None
        return {key: Entry(msg.data, batch_get.sequence(msg)) for key, msg in messages.items()}

    async def _get_each(self, keys: Sequence[str]) -> dict[str, Entry]:
        async def read(key: str) -> tuple[str, Entry] | None:
            async with self._single_reads:
                try:
                    return key, await self.get(key)
                except KeyMissing:
                    return None

        return dict(pair for pair in await asyncio.gather(*map(read, keys)) if pair)


def while_conflicting() -> AsyncRetrying:
    """Return attempts that follow on conflicts, with growing pauses, until patience ends."""
    return AsyncRetrying(
        retry=retry_if_exception_type(RevisionConflict),
        wait=wait_random_exponential(multiplier=0.005, max=0.2),
        stop=stop_after_delay(CONFLICT_PATIENCE_SECONDS),
        reraise=True,
    )

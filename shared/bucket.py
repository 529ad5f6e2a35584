# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: one NATS KV bucket. Turns JetStream's answers into ours, once; binds late, so a bucket may come and go."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shared import batch_get, contract, jetstream
from shared.errors import (
    BucketMissing,
    KeyMissing,
    KeyTaken,
    RevisionConflict,
    StoreError,
    StoreUnavailable,
    ValueTooLarge,
)
from shared.inbox import HEADER_ROOM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.msg import Msg

    from shared.connection import Connection
    from shared.inbox import Inbox
    from shared.jetstream import ApiError, StreamConfig, StreamInfo

log = logging.getLogger(__name__)

BINDING_SECONDS: Final = 30.0  # how long what we know of the stream's configuration is believed
CONFLICT_PATIENCE_SECONDS: Final = 4.0
STALE_PATIENCE_SECONDS: Final = 2.0
SINGLE_READS_AT_ONCE: Final = 64
BATCHES_AT_ONCE: Final = 4  # together far below what a server keeps for one reader


class Entry(msgspec.Struct, frozen=True):
    """A value and the stream sequence that wrote it."""

    value: bytes
    revision: int


class Bucket:
    """Reads and writes the keys of one bucket. Every method may raise StoreUnavailable."""

    def __init__(self, inbox: Inbox, connection: Connection, name: str) -> None:
        """Name the bucket; it need not exist yet."""
        self.name = name
        self._inbox = inbox
        self._connection = connection
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."
        self._binding: StreamInfo | None = None
        self._bound_until = 0.0
        self.conflicts = 0
        self._single_reads = asyncio.Semaphore(SINGLE_READS_AT_ONCE)
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def info(self) -> StreamInfo:
        """Ask the stream's leader for its configuration, state and time of creation."""
        reply = await self._inbox.request(f"$JS.API.STREAM.INFO.{self._stream}")
        info = jetstream.decode_info(reply.data)
        if info.error:
            raise self._unavailable(info.error)
        self._binding, self._bound_until = info, time.monotonic() + BINDING_SECONDS
        return info

    async def max_value_bytes(self) -> int:
        """Return how large a value may be: the bucket's own limit or the server's max_payload."""
        config = (await self._bound()).config
        limit = self._connection.max_payload - HEADER_ROOM_BYTES
        return min(limit, config.max_msg_size - HEADER_ROOM_BYTES) if config.max_msg_size > 0 else limit

    async def get(self, key: str) -> Entry:
        """Return the value, from the server that is the leader if there is more than one.

        Raises:
            KeyMissing: there is none, says the leader.
        """
        config = (await self._bound()).config
        if not config.allow_direct or config.num_replicas > 1:
            return await self.get_from_leader(key)
        reply = await self._request(f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}{key}")
        headers = reply.headers or {}
        if jetstream.STATUS in headers or jetstream.is_deleted(headers):
            return await self.get_from_leader(key)
        return Entry(reply.data, int(headers[jetstream.SEQUENCE]))

    async def find(self, key: str) -> bytes | None:
        """Return the value if there is one, in one exchange; a follower that is behind may not have it yet."""
        config = (await self._bound()).config
        if config.allow_direct:
            reply = await self._request(f"$JS.API.DIRECT.GET.{self._stream}.{self._prefix}{key}")
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
        query = jetstream.encode({"last_by_subj": self._prefix + key})
        reply = jetstream.decode_message((await self._request(f"$JS.API.STREAM.MSG.GET.{self._stream}", query)).data)
        if reply.error and reply.error.err_code == jetstream.NO_MESSAGE:
            raise KeyMissing(key)
        if reply.error or not reply.message:
            raise self._unavailable(reply.error or jetstream.ApiError())
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
        async for attempt in _while_conflicting(CONFLICT_PATIENCE_SECONDS):
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

    async def rewrite(self, key: str, change: Callable[[bytes], bytes | None]) -> bool:
        """Read, change and write a value until it sticks; `change` returns None to leave it. Return whether it wrote.

        Raises:
            KeyMissing: there is no value.
            RevisionConflict: others were faster for as long as patience lasted.
            ValueTooLarge: what `change` returned is over the limit.
        """
        try:
            return await self._change(key, await self.get(key), change)
        except RevisionConflict:
            async for attempt in _while_conflicting(CONFLICT_PATIENCE_SECONDS):
                with attempt:
                    return await self._change(key, await self.get_from_leader(key), change)
        raise AssertionError("unreachable: AsyncRetrying returns or raises")

    async def _change(self, key: str, entry: Entry, change: Callable[[bytes], bytes | None]) -> bool:
        value = change(entry.value)
        if value is None:
            return False
        await self._write(key, value, entry.revision)
        return True

    async def _write(self, key: str, value: bytes, revision: int, more: dict[str, str] | None = None) -> int:
        headers = {jetstream.EXPECTED_REVISION: str(revision), **(more or {})}
        reply = await self._request(self._prefix + key, value, headers)
        ack = jetstream.decode_ack(reply.data)
        if not ack.error:
            return ack.seq
        if ack.error.err_code in jetstream.WRONG_LAST_SEQUENCE:
            self.conflicts += 1
            raise RevisionConflict(key)
        if ack.error.err_code == jetstream.MESSAGE_TOO_LARGE:
            self._binding = None
            raise ValueTooLarge(f"{len(value)} bytes exceed the limit of bucket {self.name}")
        raise self._unavailable(ack.error)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the values of those keys that have one, in batches of direct gets, none of them out of date."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), batch_get.MAX_SUBJECTS):
            found.update(await self._get_batch(keys[start : start + batch_get.MAX_SUBJECTS]))
        return found

    async def get_matching(self, *filters: str) -> dict[str, Entry] | None:
        """Return the values of the keys that match subject filters; None if there are more than a batch may hold."""
        config = (await self._bound()).config
        if not config.allow_direct:
            return None
        return await self._fresh_batch(filters, config)

    async def _get_batch(self, keys: Sequence[str]) -> dict[str, Entry]:
        config = (await self._bound()).config
        found = await self._fresh_batch(keys, config) if config.allow_direct else None
        return found if found is not None else await self._get_each(keys)

    async def _fresh_batch(self, filters: Sequence[str], config: StreamConfig) -> dict[str, Entry] | None:
        """Read a batch; with replicas, again until the server that answered has all that the leader had before."""
        deadline = time.monotonic() + STALE_PATIENCE_SECONDS
        needed = (await self.info()).state.last_seq if config.num_replicas > 1 else 0
        while True:
            batch = await self._batch(filters)
            if batch is None:
                return None
            if batch.up_to_sequence >= needed:
                return self._entries(batch)
            if not batch.messages or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.05)

    async def _batch(self, filters: Sequence[str]) -> batch_get.Batch | None:
        try:
            async with self._batches:
                return await batch_get.read(self._inbox, self._stream, [self._prefix + one for one in filters])
        except ValueTooLarge:  # so many keys do not fit into a request
            return None
        except StoreUnavailable as error:
            self._binding = None
            raise StoreUnavailable(f"bucket {self.name}: {error}") from error

    def _entries(self, batch: batch_get.Batch) -> dict[str, Entry]:
        skip = len(self._prefix)
        return {subject[skip:]: Entry(msg.data, batch_get.sequence(msg)) for subject, msg in batch.messages.items()}

    async def _get_each(self, keys: Sequence[str]) -> dict[str, Entry]:
        async def read(key: str) -> tuple[str, Entry] | None:
            async with self._single_reads:
                try:
                    return key, await self.get(key)
                except KeyMissing:
                    return None

        return dict(pair for pair in await asyncio.gather(*map(read, keys)) if pair)

    async def _bound(self) -> StreamInfo:
        if self._binding and time.monotonic() < self._bound_until:
            return self._binding
        return await self.info()

    async def _request(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        try:
            return await self._inbox.request(subject, payload, headers)
        except StoreUnavailable as error:
            self._binding = None  # the bucket may be gone, and come back with other limits
            raise StoreUnavailable(f"bucket {self.name}: {error}") from error

    def _unavailable(self, error: ApiError) -> StoreError:
        self._binding = None
        said = f"bucket {self.name}: {error.description or 'no answer'} ({error.err_code})"
        return BucketMissing(said) if error.err_code == jetstream.NO_STREAM else StoreUnavailable(said)


async def report_unusable(inbox: Inbox, connection: Connection, names: Sequence[str]) -> None:
    """Say at start, before the first email does, which buckets are not there; the process waits for them."""
    for name in names:
        try:
            await Bucket(inbox, connection, name).info()
        except StoreUnavailable as error:
            extra = {"bucket": name, "error": str(error)}
            log.warning("bucket.unusable", extra=extra | ({"advice": error.advice} if error.advice else {}))


async def create_missing(connection: Connection, names: Sequence[str]) -> None:
    """Create those buckets that are not there, for a local server; in production the relay's chart makes them.

    Raises:
        StoreUnavailable: JetStream is off or full.
    """
    import nats.js.errors  # noqa: PLC0415 - needed only where buckets are created
    from nats.js.api import KeyValueConfig  # noqa: PLC0415

    js = connection.client.jetstream()
    for name in names:
        try:
            try:
                await js.key_value(name)
            except nats.js.errors.NotFoundError:
                ttl = contract.BUCKET_TTL_SECONDS.get(name)
                await js.create_key_value(KeyValueConfig(bucket=name, history=1, ttl=ttl, direct=True))
                log.info("bucket.created", extra={"bucket": name})
        except nats.errors.Error as error:
            raise StoreUnavailable(f"bucket {name}: {error}") from error


def _while_conflicting(patience_seconds: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(RevisionConflict),
        wait=wait_random_exponential(multiplier=0.005, max=0.2),
        stop=stop_after_delay(patience_seconds),
        reraise=True,
    )

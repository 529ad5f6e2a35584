# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: one NATS KV bucket. Turns JetStream's answers into ours, once; binds late, so a bucket may come and go.

Sources: the NATS docs on "JetStream Wire API", ADR-8 (key-value store) and ADR-31 (direct get, batches).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shared.errors import KeyMissing, KeyTaken, RevisionConflict, StoreError, StoreUnavailable, ValueTooLarge
from shared.inbox import HEADER_ROOM_BYTES, STATUS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nats.aio.msg import Msg

    from shared.connection import Connection
    from shared.inbox import Inbox

log = logging.getLogger(__name__)

EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
SEQUENCE: Final = "Nats-Sequence"
SUBJECT: Final = "Nats-Subject"
NUM_PENDING: Final = "Nats-Num-Pending"
UP_TO_SEQUENCE: Final = "Nats-UpTo-Sequence"
OPERATION: Final = "KV-Operation"
MARKER_REASON: Final = "Nats-Marker-Reason"  # a key that expired leaves an empty message with this header

WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})  # the second with replicas (nats-io/nats.py#782)
MESSAGE_TOO_LARGE: Final = 10054
NO_MESSAGE: Final = 10037

BATCH_KEYS: Final = 1000  # a batch of more than 1,024 is answered 413 and no data
BINDING_SECONDS: Final = 30.0  # how long what we know of the stream's configuration is believed
CONFLICT_PATIENCE_SECONDS: Final = 4.0
STALE_PATIENCE_SECONDS: Final = 2.0
SINGLE_READS_AT_ONCE: Final = 64


class Entry(msgspec.Struct, frozen=True):
    """A value and the stream sequence that wrote it."""

    value: bytes
    revision: int


class _Config(msgspec.Struct, frozen=True):
    max_msg_size: int = -1
    num_replicas: int = 1
    allow_direct: bool = False


class _State(msgspec.Struct, frozen=True):
    last_seq: int = 0


class _ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class StreamInfo(msgspec.Struct, frozen=True):
    """What the stream's leader says of it; `created` tells a bucket from one made again under the same name."""

    config: _Config = _Config()
    state: _State = _State()
    created: str = ""
    error: _ApiError | None = None


class _Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    error: _ApiError | None = None


class _Stored(msgspec.Struct, frozen=True):
    seq: int
    data: bytes = b""
    hdrs: bytes = b""


class _Message(msgspec.Struct, frozen=True):
    message: _Stored | None = None
    error: _ApiError | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_info = msgspec.json.Decoder(StreamInfo).decode
_encode = msgspec.json.encode


class Bucket:
    """Reads and writes the keys of one bucket. Every method may raise StoreUnavailable."""

    def __init__(self, inbox: Inbox, connection: Connection, name: str) -> None:
        """Name the bucket; it need not exist yet."""
        self.name = name
        self._inbox = inbox
        self._connection = connection
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."
        self._direct_get = f"$JS.API.DIRECT.GET.{self._stream}"
        self._binding: StreamInfo | None = None
        self._bound_until = 0.0

    async def info(self) -> StreamInfo:
        """Ask the stream's leader for its configuration, state and time of creation."""
        reply = await self._inbox.request(f"$JS.API.STREAM.INFO.{self._stream}")
        info = _decode_info(reply.data)
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
        reply = await self._request(f"{self._direct_get}.{self._prefix}{key}")
        headers = reply.headers or {}
        if STATUS in headers or _is_deleted(headers):
            return await self.get_from_leader(key)
        return Entry(reply.data, int(headers[SEQUENCE]))

    async def get_from_leader(self, key: str) -> Entry:
        """Return the value, read through the stream's leader: never an old one.

        Raises:
            KeyMissing: there is none.
        """
        query = _encode({"last_by_subj": self._prefix + key})
        reply = _decode_message((await self._request(f"$JS.API.STREAM.MSG.GET.{self._stream}", query)).data)
        if reply.error and reply.error.err_code == NO_MESSAGE:
            raise KeyMissing(key)
        if reply.error or not reply.message:
            raise self._unavailable(reply.error or _ApiError())
        if OPERATION.encode() in reply.message.hdrs or MARKER_REASON.encode() in reply.message.hdrs:
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
                    await self.get_from_leader(key)
                except KeyMissing as missing:
                    return await self._write(key, value, missing.revision)
                raise KeyTaken(key)
        raise AssertionError("unreachable: AsyncRetrying returns or raises")

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Write a key whose last revision is still `revision`; return the new one.

        Raises:
            RevisionConflict: it is not, or the server says so.
            ValueTooLarge: the value is over the limit.
        """
        return await self._write(key, value, revision)

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

    async def _write(self, key: str, value: bytes, revision: int) -> int:
        reply = await self._request(self._prefix + key, value, {EXPECTED_REVISION: str(revision)})
        ack = _decode_ack(reply.data)
        if not ack.error:
            return ack.seq
        if ack.error.err_code in WRONG_LAST_SEQUENCE:
            raise RevisionConflict(key)
        if ack.error.err_code == MESSAGE_TOO_LARGE:
            self._binding = None
            raise ValueTooLarge(f"{len(value)} bytes exceed the limit of bucket {self.name}")
        raise self._unavailable(ack.error)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the values of those keys that have one, in batches of direct gets, none of them out of date."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), BATCH_KEYS):
            found.update(await self._get_batch(keys[start : start + BATCH_KEYS]))
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

    async def _fresh_batch(self, filters: Sequence[str], config: _Config) -> dict[str, Entry] | None:
        """Read a batch; with replicas, again until the server that answered has all that the leader had before."""
        deadline = time.monotonic() + STALE_PATIENCE_SECONDS
        needed = (await self.info()).state.last_seq if config.num_replicas > 1 else 0
        while True:
            found, up_to = await self._batch(filters)
            if up_to >= needed or found is None:
                return found
            if not found or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.05)

    async def _batch(self, filters: Sequence[str]) -> tuple[dict[str, Entry] | None, int]:
        """Return the entries and the sequence up to which the server that answered had followed the stream."""
        query: dict[str, object] = {"multi_last": [self._prefix + one for one in filters]}
        found: dict[str, Entry] = {}
        while True:
            try:
                *replies, last = await self._inbox.collect(self._direct_get, _encode(query), _is_last)
            except StoreUnavailable:
                self._binding = None
                raise
            headers = last.headers or {}
            status = headers[STATUS]
            if status == "404":
                return found, 0  # it does not say how far it has followed the stream
            if status != "204":  # 413: too many; 408: a server older than 2.11, which knows no batch
                return None, 0
            highest = 0
            for msg in replies:
                highest = max(highest, int(msg.headers[SEQUENCE]))
                if not _is_deleted(msg.headers):
                    found[msg.headers[SUBJECT][len(self._prefix) :]] = Entry(msg.data, int(msg.headers[SEQUENCE]))
            up_to = int(headers[UP_TO_SEQUENCE])
            if int(headers[NUM_PENDING]) == 0:
                return found, up_to
            query |= {"seq": highest + 1, "up_to_seq": up_to}

    async def _get_each(self, keys: Sequence[str]) -> dict[str, Entry]:
        places = asyncio.Semaphore(SINGLE_READS_AT_ONCE)

        async def read(key: str) -> tuple[str, Entry] | None:
            async with places:
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
        except StoreUnavailable:
            self._binding = None  # the bucket may be gone, and come back with other limits
            raise

    def _unavailable(self, error: _ApiError) -> StoreError:
        self._binding = None
        return StoreUnavailable(f"bucket {self.name}: {error.description or 'no answer'} ({error.err_code})")


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
            await js.key_value(name)
        except nats.js.errors.NotFoundError:
            await js.create_key_value(KeyValueConfig(bucket=name, history=1, direct=True))
            log.info("bucket.created", extra={"bucket": name})
        except (nats.js.errors.Error, nats.errors.Error) as error:
            raise StoreUnavailable(f"bucket {name}: {error}") from error


def _while_conflicting(patience_seconds: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(RevisionConflict),
        wait=wait_random_exponential(multiplier=0.005, max=0.2),
        stop=stop_after_delay(patience_seconds),
        reraise=True,
    )


def _is_deleted(headers: Mapping[str, str]) -> bool:
    return OPERATION in headers or MARKER_REASON in headers


def _is_last(msg: Msg) -> bool:
    return bool(msg.headers) and STATUS in msg.headers

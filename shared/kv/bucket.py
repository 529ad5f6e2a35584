# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The keys and values of one NATS KV bucket. Translates JetStream's answers into our errors, in this place only.

The bucket's configuration is kept for a while. After a missing answer, or an error other than a conflict, it is asked
for again: the bucket may have changed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shared.errors import (
    BucketMissing,
    BucketUnfit,
    KeyMissing,
    KeyTaken,
    RevisionConflict,
    StoreError,
    StoreFull,
    StoreUnavailable,
    ValueTooLarge,
)
from shared.kv import batch_get, jetstream
from shared.nats.inbox import HEADER_ROOM_BYTES
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.aio.msg import Msg

    from shared.kv.jetstream import ApiError, StreamConfig, StreamInfo
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from shared.telemetry.spans import Spans

CONFIG_SECONDS: Final = 30.0  # how long a known configuration is used without asking again
CONFLICT_PATIENCE_SECONDS: Final = 4.0
SINGLE_READS_AT_ONCE: Final = 64

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """A value and the stream sequence of its write.

    A read of a single key also has the `write_id` that its writer gave to the write, and `previous`, the revision that
    the write replaced, if it depended on one.
    """

    value: bytes
    revision: int
    previous: int = 0
    write_id: str = ""


class Bucket:
    """Reads and writes the keys of one bucket. Every method may raise StoreUnavailable."""

    def __init__(self, inbox: Inbox, connection: Connection, name: str, spans: Spans = NO_SPANS) -> None:
        """Name the bucket; it need not exist yet."""
        self.name = name
        self.stream_name = f"KV_{name}"
        self.subject_prefix = f"$KV.{name}."
        self.conflicts = 0  # how many writes were refused because the key had changed
        self._inbox = inbox
        self._connection = connection
        self._spans = spans
        self._span_attributes = {"db.system.name": "nats", "db.operation.name": "put", "db.collection.name": name}
        self._batches = batch_get.BatchReader(inbox, self.stream_name)
        self._single_reads = asyncio.Semaphore(SINGLE_READS_AT_ONCE)
        self._known_config: StreamConfig | None = None
        self._known_until = 0.0
        self._is_clustered = True

    async def info(self) -> StreamInfo:
        """Ask the stream's leader for its configuration, state and time of creation."""
        info = await self._ask(jetstream.decode_info, f"$JS.API.STREAM.INFO.{self.stream_name}")
        if info.error:
            raise self._refused(info.error)
        if why := jetstream.unfit(info.config):
            raise BucketUnfit(f"bucket {self.name}: {why}")
        self._known_config, self._known_until = info.config, time.monotonic() + CONFIG_SECONDS
        self._is_clustered = info.is_clustered
        return info

    async def max_value_bytes(self) -> int:
        """Return the largest size of a value: by the bucket's own limit or the server's max_payload."""
        config = await self._config()
        limit = self._connection.max_payload - HEADER_ROOM_BYTES
        return min(limit, config.max_msg_size - HEADER_ROOM_BYTES) if config.max_msg_size > 0 else limit

    async def ttl_seconds(self) -> float:
        """Return the time after which values expire; 0 if they do not."""
        return (await self._config()).max_age / 1e9

    async def _config(self) -> StreamConfig:
        if self._known_config and time.monotonic() < self._known_until:
            return self._known_config
        await self._connection.payload_limit(sys.maxsize)  # the other limit of a value
        return (await self.info()).config

    async def get(self, key: str) -> Entry:
        """Return the value, or raise KeyMissing; in a cluster, read it through the leader."""
        config = await self._config()
        if not config.allow_direct or self._is_clustered:
            return await self.get_from_leader(key)
        reply = await self._get_directly(key)
        headers = reply.headers or {}
        is_missing = jetstream.STATUS in headers or jetstream.is_deleted(headers)
        if is_missing or batch_get.is_of_mirror(self.stream_name, reply):
            return await self.get_from_leader(key)
        return self._entry(reply)

    async def find(self, key: str) -> bytes | None:
        """Return the value or None, in one exchange; a follower that is behind may not have a new value yet."""
        config = await self._config()
        if config.allow_direct:
            reply = await self._get_directly(key)
            headers = reply.headers or {}
            if headers.get(jetstream.STATUS) == jetstream.NO_RESULTS or jetstream.is_deleted(headers):
                return None
            if jetstream.STATUS not in headers and not batch_get.is_of_mirror(self.stream_name, reply):
                return self._entry(reply).value
        try:
            return (await self.get_from_leader(key)).value
        except KeyMissing:
            return None

    async def _get_directly(self, key: str) -> Msg:
        """Ask any server that has the stream for the last message of a key."""
        return await self._request(f"$JS.API.DIRECT.GET.{self.stream_name}.{self.subject_prefix}{key}")

    def _entry(self, reply: Msg) -> Entry:
        try:
            return Entry(reply.data, batch_get.sequence(reply), *jetstream.origin(reply.headers or {}))
        except StoreUnavailable as error:
            raise self._unanswered(error) from error

    async def get_from_leader(self, key: str) -> Entry:
        """Return the latest value, read through the stream's leader.

        Raises:
            KeyMissing: there is no value.
        """
        query = jetstream.encode({"last_by_subj": self.subject_prefix + key})
        reply = await self._ask(jetstream.decode_message, f"$JS.API.STREAM.MSG.GET.{self.stream_name}", query)
        if reply.error and reply.error.err_code == jetstream.NO_MESSAGE:
            raise KeyMissing(key)
        if reply.error or not reply.message:
            raise self._refused(reply.error or jetstream.ApiError())
        if jetstream.was_deleted(reply.message):
            raise KeyMissing(key, reply.message.seq)
        return Entry(reply.message.data, reply.message.seq, *jetstream.origin_of(reply.message))

    async def create(self, key: str, value: bytes) -> int:
        """Write a key that holds no value; return its revision.

        Raises:
            KeyTaken: the key holds a value.
            ValueTooLarge: the value is over the limit.
        """
        await self._config()  # a stream that loses values accepts them, too
        try:
            return await self._write(key, value, 0)
        except RevisionConflict:  # the key exists, was deleted, or (with replicas) the conflict is not real
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
            RevisionConflict: it has another revision, or the server reports a conflict that is not real.
            ValueTooLarge: the value is over the limit.
        """
        return await self._write(key, value, revision)

    async def supersede(self, key: str, value: bytes, revision: int) -> int:
        """Write like `update`, and remove the old values of the key that a bucket with a history keeps.

        Raises:
            RevisionConflict, ValueTooLarge: see `update`.
        """
        keeps_old = (await self._config()).max_msgs_per_subject != 1
        return await self._write(key, value, revision, {jetstream.ROLLUP: "sub"} if keeps_old else None)

    async def delete(self, key: str, revision: int) -> None:
        """Delete a key whose last revision is still `revision`; a deletion marker stays in the stream.

        Raises:
            RevisionConflict: it has another revision, or the server reports a conflict that is not real.
        """
        await self._write(key, b"", revision, {jetstream.OPERATION: "DEL"})

    async def purge(self, key: str, revision: int) -> bool:
        """Remove what the stream holds of a key up to `revision`, also a deletion marker; a later value stays.

        Followers are not notified. Returns whether anything was removed.
        """
        query = jetstream.encode({"filter": self.subject_prefix + key, "seq": revision + 1})
        answer = await self._ask(jetstream.decode_purge, f"$JS.API.STREAM.PURGE.{self.stream_name}", query)
        if answer.error:
            raise self._refused(answer.error)
        return answer.purged > 0

    async def rewrite(
        self,
        key: str,
        change: Callable[[bytes], tuple[bytes | None, T]],
        *,
        on_read: Callable[[Entry], None] | None = None,
        write_id: str = "",
    ) -> T:
        """Read, change and write a value, again after each conflict; return the result of the last `change`.

        `change` returns the new value, or None to leave the old one, and a result of its own. `on_read` is called with
        each entry before `change`. The new value is stored with `write_id`, which later reads return.

        Raises:
            KeyMissing: there is no value.
            RevisionConflict: there were conflicts for CONFLICT_PATIENCE_SECONDS.
            ValueTooLarge: the value that `change` returned is over the limit.
        """
        more = {jetstream.WRITE_ID: write_id} if write_id else None

        async def attempt_on(entry: Entry) -> T:
            if on_read:
                on_read(entry)
            value, result = change(entry.value)
            if value is not None:
                await self._write(key, value, entry.revision, more)
            return result

        try:
            return await attempt_on(await self.get(key))
        except RevisionConflict:
            async for attempt in while_conflicting():
                with attempt:
                    return await attempt_on(await self.get_from_leader(key))
        raise AssertionError("unreachable: AsyncRetrying returns or raises")

    async def _write(self, key: str, value: bytes, revision: int, more: dict[str, str] | None = None) -> int:
        headers = {jetstream.EXPECTED_REVISION: str(revision), **(more or {})}
        with self._spans.start(f"put {self.name}", "client", self._span_attributes):
            ack = await self._ask(jetstream.decode_ack, self.subject_prefix + key, value, headers)
        if not ack.error:
            return ack.seq
        if ack.error.err_code in jetstream.WRONG_LAST_SEQUENCE:
            self.conflicts += 1
            raise RevisionConflict(f"{key} was changed at the same time")
        if ack.error.err_code == jetstream.MESSAGE_TOO_LARGE:
            self._known_config = None
            raise ValueTooLarge(f"{len(value)} bytes exceed the limit of bucket {self.name}")
        raise self._refused(ack.error)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the current values of those keys that have one, read in batches where the server can."""
        found: dict[str, Entry] = {}
        for start in range(0, len(keys), batch_get.MAX_SUBJECTS):
            some = keys[start : start + batch_get.MAX_SUBJECTS]
            batch = await self.get_matching(*some)
            found.update(batch if batch is not None else await self._get_each(some))
        return found

    async def get_matching(self, *filters: str) -> dict[str, Entry] | None:
        """Return the values of the keys that match subject filters, all as of one moment after the call.

        Returns None if a batch cannot give them all.
        """
        config = await self._config()
        if not config.allow_direct:
            return None
        written = (await self.info()).state.last_seq if self._is_clustered else 0
        try:
            messages = await self._batches.read([self.subject_prefix + one for one in filters], written)
        except StoreUnavailable as error:
            raise self._unanswered(error) from error
        if messages is None:
            return None
        skip = len(self.subject_prefix)
        return {subject[skip:]: Entry(msg.data, batch_get.sequence(msg)) for subject, msg in messages.items()}

    async def _get_each(self, keys: Sequence[str]) -> dict[str, Entry]:
        async def read(key: str) -> tuple[str, Entry] | None:
            async with self._single_reads:
                try:
                    return key, await self.get(key)
                except KeyMissing:
                    return None

        return dict(pair for pair in await asyncio.gather(*map(read, keys)) if pair)

    async def _ask(
        self, read: Callable[[bytes], T], subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> T:
        """Send a request and return its answer as `read` decodes it."""
        reply = await self._request(subject, payload, headers)
        try:
            return read(reply.data)
        except StoreUnavailable as error:
            raise self._unanswered(error) from error

    async def _request(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        try:
            return await self._inbox.request(subject, payload, headers)
        except StoreUnavailable as error:
            raise self._unanswered(error) from error

    def _unanswered(self, error: StoreUnavailable) -> StoreUnavailable:
        """Return the error to raise for a missing or unreadable answer: the same, with the bucket's name."""
        self._known_config = None  # the bucket may come back with other limits
        return type(error)(f"bucket {self.name}: {error}")

    def _refused(self, error: ApiError) -> StoreError:
        """Return the error to raise for an error of JetStream."""
        self._known_config = None
        message = f"bucket {self.name}: {error.description or 'no answer'} ({error.err_code})"
        if error.err_code == jetstream.NO_STREAM:
            return BucketMissing(message)
        return (StoreFull if jetstream.NO_SPACE.search(error.description) else StoreUnavailable)(message)


def while_conflicting() -> AsyncRetrying:
    """Return attempts that are repeated on conflicts, with growing pauses, for CONFLICT_PATIENCE_SECONDS."""
    return AsyncRetrying(
        retry=retry_if_exception_type(RevisionConflict),
        wait=wait_random_exponential(multiplier=0.005, max=0.2),
        stop=stop_after_delay(CONFLICT_PATIENCE_SECONDS),
        reraise=True,
    )

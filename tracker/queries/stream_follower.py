# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Follows the stream of a bucket through an ephemeral consumer, and can prove that it has followed to the end.

Source: the NATS docs on ordered push consumers (consumer sequence, idle heartbeats, flow control), ADR-17.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import nats.errors

from shared.errors import StoreUnavailable
from shared.kv import jetstream
from shared.service.tasks import Tasks
from tracker.queries.key_count import KeyCount

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 2
SILENCE_SECONDS: Final = 2.5 * HEARTBEAT_SECONDS
CATCH_UP_SECONDS: Final = 2.0
UNSUBSCRIBE_SECONDS: Final = 2.0
ABANDONED_SECONDS: Final = 30  # after which the server drops a consumer without a listener
NANOSECONDS: Final = 1_000_000_000


class NotFollowed(StoreUnavailable):
    """The stream cannot be followed, or a write may have been missed. The bucket itself may be readable."""


class Write(msgspec.Struct, frozen=True):
    """One write to the bucket; `value` is empty if only headers are followed, None if the key was deleted.

    `previous` is the revision that it followed, None if the writer did not name one.
    """

    key: str
    value: bytes | None
    revision: int
    previous: int | None = None


class StreamFollower:
    """Hands on every write since `start`, in order. If one may have been missed, it is lost and has to start again."""

    def __init__(
        self, connection: Connection, inbox: Inbox, bucket: Bucket, on_write: Callable[[Write], object], *, values: bool
    ) -> None:
        """Call `on_write` for each write to `bucket`, with or without its value.

        `on_write` returns something true if it knows that the key had a value before.
        """
        self._connection = connection
        self._inbox = inbox
        self._bucket = bucket
        self._on_write = on_write
        self._values = values
        self._subscription: Subscription | None = None
        self._subject = ""
        self._created = ""
        self._consumer_sequence = 0
        self._reached = 0
        self._keys = KeyCount(0, 0)
        self._heard_at = 0.0
        self.is_lost = True
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._flow = Tasks()

    async def start(self) -> None:
        """Follow the writes after the last one that the leader has now.

        Raises:
            NotFollowed: the server does not create a consumer, or denies its messages.
            StoreUnavailable: the stream is not there.
        """
        info = await self._bucket.info()
        self._keys = KeyCount(info.state.last_seq, info.keys)
        self._subject = subject = self._connection.new_inbox()
        self._created, self._reached, self._consumer_sequence = info.created, info.state.last_seq, 0
        self._heard_at, self.is_lost = time.monotonic(), False
        try:
            self._subscription = await self._connection.subscribe(subject, partial(self._receive, subject))
            await self._create_consumer(subject, info.state.last_seq + 1)
            self._check_permitted()
        except BaseException:
            await self.stop()
            raise

    async def _create_consumer(self, subject: str, first_sequence: int) -> None:
        stream = self._bucket.stream_name
        config = _consumer_config(subject, first_sequence, values=self._values)
        query = jetstream.encode({"stream_name": stream, "config": config})
        try:
            reply = await self._inbox.request(f"$JS.API.CONSUMER.CREATE.{stream}", query)
            created = jetstream.decode_consumer(reply.data)
        except StoreUnavailable as error:
            if not self._connection.connected:
                raise
            raise NotFollowed(f"consumer of {stream}: {error}") from error
        if created.error:
            raise NotFollowed(f"consumer of {stream}: {created.error.description} ({created.error.err_code})")

    async def stop(self) -> None:
        """Stop following."""
        self.lose()
        subscription, self._subscription = self._subscription, None
        if subscription:  # also without a connection, since a reconnect subscribes again
            try:
                async with asyncio.timeout(UNSUBSCRIBE_SECONDS):
                    await subscription.unsubscribe()
            except (nats.errors.Error, OSError) as error:  # with TimeoutError, if the server reads nothing
                log.debug("follower.unsubscribe_failed", extra={"error": repr(error)})

    def lose(self) -> None:
        """Note that a write may have been missed."""
        self.is_lost = True
        for _, future in self._awaited:
            if not future.done():
                future.set_exception(NotFollowed(f"lost track of bucket {self._bucket.name}"))
        self._awaited = []

    async def caught_up(self) -> None:
        """Return when every write that the leader has now was handed on.

        Raises:
            NotFollowed: a write may have been missed, or a key has left the bucket without one.
            StoreUnavailable: the leader does not answer.
        """
        self._check_permitted()
        info = await self._bucket.info()
        if info.created != self._created or time.monotonic() - self._heard_at > SILENCE_SECONDS:
            self.lose()
        if self.is_lost:
            raise NotFollowed(f"lost track of bucket {self._bucket.name}")
        if self._reached < info.state.last_seq:
            await self._wait_for(info.state.last_seq)
        if not self._keys.proves(info.state.last_seq, info.keys):
            self.lose()
            raise NotFollowed(f"keys have left bucket {self._bucket.name} without a write")

    def _check_permitted(self) -> None:
        if self._subscription and (denied := self._connection.denial_of(self._subscription)):
            self.lose()
            raise NotFollowed(str(denied))

    async def _wait_for(self, sequence: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self._awaited.append((sequence, future))
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await future
        except TimeoutError:
            self.lose()
            raise NotFollowed(f"bucket {self._bucket.name} is followed too slowly") from None

    def _receive(self, subject: str, msg: Msg) -> None:
        if subject != self._subject:  # of an earlier consumer, whose end the server has not read yet
            return
        try:
            self._take(msg)
        except Exception:  # for example an acknowledgement subject that cannot be read: the write may be missed
            self.lose()
            raise

    def _take(self, msg: Msg) -> None:
        headers = msg.headers or {}
        self._heard_at = time.monotonic()
        if headers.get(jetstream.STATUS) == jetstream.CONTROL:
            self._control(msg)
            return
        if self.is_lost:
            return
        *_, stream_sequence, consumer_sequence, _, _ = msg.reply.split(".")
        if int(consumer_sequence) != self._consumer_sequence + 1:
            self.lose()
            return
        self._consumer_sequence += 1
        deleted = jetstream.is_deleted(headers)
        key = msg.subject.removeprefix(self._bucket.subject_prefix)
        sequence, expected = int(stream_sequence), headers.get(jetstream.EXPECTED_REVISION)
        previous = None if expected is None else int(expected)
        is_known = bool(self._on_write(Write(key, None if deleted else msg.data, sequence, previous)))
        self._keys.written(key, sequence, previous, is_known=is_known)
        self._reach(sequence)

    def _control(self, msg: Msg) -> None:
        """Answer flow control, and check by the heartbeat whether a write was missed."""
        if msg.reply:
            self._flow.start(self._connection.publish(msg.reply, b""))
            return
        last = (msg.headers or {}).get(jetstream.LAST_CONSUMER)
        if last is not None and int(last) != self._consumer_sequence:
            self.lose()

    def _reach(self, sequence: int) -> None:
        self._reached = sequence
        if not self._awaited:
            return
        for awaited, future in self._awaited:
            if awaited <= sequence and not future.done():
                future.set_result(None)
        self._awaited = [one for one in self._awaited if one[0] > sequence]


def _consumer_config(subject: str, first_sequence: int, *, values: bool) -> dict[str, object]:
    return {
        "deliver_subject": subject,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first_sequence,
        "ack_policy": "none",
        "flow_control": True,
        "idle_heartbeat": HEARTBEAT_SECONDS * NANOSECONDS,
        "inactive_threshold": ABANDONED_SECONDS * NANOSECONDS,
        "headers_only": not values,
        "mem_storage": True,
        "num_replicas": 1,
    }

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads the stream of push events from a time on, then waits for further ones: each event once, in order.

Source: the NATS docs on ordered consumers and pull requests (ADR-17, ADR-37). The consumer is created again after the
last event that was read, whenever one may have been missed: the connection was lost, the stream has another leader, the
server has dropped the consumer because the reader of the events was slow.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import nats.errors

from shared.errors import NotPermitted, StoreUnavailable
from shared.kv import jetstream
from shared.nats import permissions
from shared.push_stream import NAME, PushStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

PAGE: Final = 500
REQUEST_SECONDS: Final = 30  # after which a request for events ends, and the next one follows
HEARTBEAT_SECONDS: Final = 5
SILENCE_SECONDS: Final = 2.5 * HEARTBEAT_SECONDS
ABANDONED_SECONDS: Final = 300  # after which the server drops a consumer that is not asked
PAUSE_SECONDS: Final = 1.0
NANOSECONDS: Final = 1_000_000_000


class Interrupted(StoreUnavailable):
    """An event may have been missed, so the consumer has to be created again."""


class StoredEvents:
    """The events of the stream since a time. Each instance reads once."""

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        subjects: Sequence[str],
        since: datetime,
        on_interruption: Callable[[str], object],
    ) -> None:
        """Read the events of `subjects`; call `on_interruption` with the reason when the reading has to wait."""
        self._connection = connection
        self._inbox = inbox
        self._subjects = list(subjects)
        self._since = since
        self._on_interruption = on_interruption
        self._arrived: asyncio.Queue[Msg | StoreUnavailable] = asyncio.Queue()
        self._created = ""  # differs if the stream was deleted and made again
        self._last = 0  # sequence of the last event that was read
        connection.on_disconnect(lambda: self._fail(Interrupted("disconnected from NATS")))
        connection.on_error(self._deny)

    async def read(self, on_start: Callable[[], object]) -> AsyncIterator[Msg]:
        """Yield the events without end; call `on_start` when the consumer exists.

        Raises:
            StreamMissing: at the start the stream is missing.
            NotPermitted: the NATS user may not read the stream.
            StoreUnavailable: at the start JetStream does not answer.
        """
        consumer = await self._consumer()
        on_start()
        while True:
            try:
                async for event in self._events(consumer):
                    yield event
            except NotPermitted:
                raise
            except StoreUnavailable as error:
                self._on_interruption(str(error))
                consumer = await self._next_consumer()

    async def _next_consumer(self) -> _Consumer:
        while True:
            try:
                return await self._consumer()
            except NotPermitted:
                raise
            except StoreUnavailable:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _consumer(self) -> _Consumer:
        """Create a consumer that begins after the last event that was read."""
        info = await PushStream(self._inbox).existing()
        if info.created != self._created:
            self._created, self._last = info.created, 0
        query = jetstream.encode({"stream_name": NAME, "config": self._config()})
        reply = await self._inbox.request(f"$JS.API.CONSUMER.CREATE.{NAME}", query)
        created = jetstream.decode_consumer(reply.data)
        if created.error:
            raise StoreUnavailable(f"consumer of {NAME}: {created.error.description} ({created.error.err_code})")
        self._arrived = asyncio.Queue()
        return _Consumer(created.name, self._connection.new_inbox())

    def _config(self) -> dict[str, object]:
        start: dict[str, object] = (
            {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
            if self._last
            else {"deliver_policy": "by_start_time", "opt_start_time": self._since.isoformat()}
        )
        return {
            **start,
            "filter_subjects": self._subjects,
            "ack_policy": "none",
            "inactive_threshold": ABANDONED_SECONDS * NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
        }

    async def _events(self, consumer: _Consumer) -> AsyncIterator[Msg]:
        """Yield what a consumer delivers, until an event may have been missed; that raises StoreUnavailable."""
        subscription = await self._connection.subscribe(consumer.reply_to, self._arrived.put_nowait)
        try:
            while True:
                await self._ask(consumer)
                async for event in self._page(consumer):
                    yield event
        except nats.errors.Error as error:
            raise Interrupted(str(error)) from error
        finally:
            with suppress(nats.errors.Error):  # also without a connection, since a reconnect subscribes again
                await subscription.unsubscribe()

    async def _ask(self, consumer: _Consumer) -> None:
        if not self._connection.connected:
            raise Interrupted("not connected to NATS")
        query = {
            "batch": PAGE,
            "expires": REQUEST_SECONDS * NANOSECONDS,
            "idle_heartbeat": HEARTBEAT_SECONDS * NANOSECONDS,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.{consumer.name}"
        await self._connection.publish(subject, jetstream.encode(query), consumer.reply_to)

    async def _page(self, consumer: _Consumer) -> AsyncIterator[Msg]:
        """Yield the events that answer one request."""
        asked_for = PAGE
        while asked_for:
            msg = await self._next()
            headers = msg.headers or {}
            status = headers.get(jetstream.STATUS)
            if status in {jetstream.NO_RESULTS, jetstream.NO_MORE}:
                return
            if status not in {None, jetstream.CONTROL}:
                raise Interrupted(f"the server has ended the reading ({status} {headers.get('Description', '')})")
            if status is None:
                self._last = consumer.sequence_of(msg)
                asked_for -= 1
                yield msg

    async def _next(self) -> Msg:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                msg = await self._arrived.get()
        except TimeoutError:
            raise Interrupted(f"nothing was heard of the stream for {SILENCE_SECONDS:g} s") from None
        if isinstance(msg, StoreUnavailable):
            raise msg
        return msg

    def _fail(self, error: StoreUnavailable) -> None:
        self._arrived.put_nowait(error)

    def _deny(self, error: Exception) -> None:
        if denied := permissions.denial_in(error):
            self._fail(NotPermitted(str(denied)))


class _Consumer:
    """A consumer on the server, and the number of events that it has delivered."""

    def __init__(self, name: str, reply_to: str) -> None:
        self.name = name
        self.reply_to = reply_to
        self._delivered = 0

    def sequence_of(self, msg: Msg) -> int:
        """Return the sequence of an event in the stream.

        Raises:
            Interrupted: one before it is missing.
        """
        try:
            *_, stream_sequence, consumer_sequence, _, _ = msg.reply.split(".")
            self._delivered += 1
            if int(consumer_sequence) == self._delivered:
                return int(stream_sequence)
        except ValueError:
            pass
        raise Interrupted("an event was lost on its way")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads the values of all keys of a bucket, a page at a time, through a pull consumer that the server drops after it.

A page ends when all values that were asked for have come, or with a status message of the server. The latter is not
always the end of the bucket: the server's count of what is left runs behind the writes, and in a bucket that keeps old
values it also ends a page at a value that was purged. So the end is compared with the last sequence of the stream, and
what is missing is read through another consumer.

Sources: the NATS docs on "JetStream wire API" (consumer create, next message), ADR-13 (pull subscribe), and
nats-server's `consumer.go` (`processNextMsgRequest`, `getNextMsg`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import msgspec
import nats.errors

from shared.errors import NotPermitted, StoreUnavailable
from shared.kv import jetstream
from shared.nats import permissions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

PAGE: Final = 500
PAGE_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 1.0  # for values that the stream has and the server of the consumer does not have yet
ABANDONED_SECONDS: Final = 300  # without a request for so long, the server drops the consumer
NANOSECONDS: Final = 1_000_000_000


class Stored(msgspec.Struct, frozen=True):
    """A key, its value and the revision; `is_deleted`: the key has only a deletion marker."""

    key: str
    value: bytes
    revision: int = 0
    is_deleted: bool = False


class BucketScan:
    """Reads the values that a bucket holds, in the order in which they were written. Each instance reads once.

    `total` is the number of keys at the start. A key that is written meanwhile comes again.
    """

    def __init__(
        self, connection: Connection, inbox: Inbox, bucket: Bucket, *, page: int | None = None, deleted: bool = False
    ) -> None:
        """Read `bucket`, up to `page` keys at a time; with `deleted` also the deletion markers."""
        self._connection = connection
        self._inbox = inbox
        self.bucket = bucket
        self._stream = bucket.stream_name
        self._prefix = bucket.subject_prefix
        self._reply_to = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._page_size = page or PAGE
        self._with_deleted = deleted
        self._reached = 0
        self.total = 0
        self._left = 0  # by the server's last count
        self._asked_for = 0
        self._read = 0
        self._received = 0  # from the present consumer
        self._page: list[Stored] = []
        self._whole: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        """Create the consumer.

        Raises:
            StoreUnavailable: the bucket does not exist, or there was no answer.
            NotPermitted: the server denies the messages.
        """
        self._connection.on_disconnect(self._lose)
        self._connection.on_error(self._deny)
        self._subscription = await self._connection.subscribe(self._reply_to, self._receive)
        await self._begin({"deliver_policy": "last_per_subject"})
        if denied := self._connection.denial_of(self._subscription):
            raise NotPermitted(str(denied))
        self.total = self._left
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unsubscribe."""
        if self._subscription and self._connection.connected:
            await self._subscription.unsubscribe()

    @property
    def reached(self) -> tuple[int, int]:
        """How many values were read, and how many there are, by the server's last count."""
        return self._read, self._read + self._left

    async def pages(self, *, written_meanwhile: bool = False) -> AsyncIterator[list[Stored]]:
        """Yield the values, a page at a time; a page is fetched when it is needed.

        With `written_meanwhile` the last pages have everything that was written while the others were used; without it
        they may lack what a follower of the stream does not have yet.

        Raises:
            StoreUnavailable: a message was lost, so the values would not be complete.
        """
        while self._left:
            yield await self._next_page()
        last = (await self.bucket.info()).state.last_seq
        if self._reached < last:
            await self._begin({"deliver_policy": "by_start_sequence", "opt_start_seq": self._reached + 1})
        while self._reached < last and (self._left or written_meanwhile):
            reached = self._reached
            page = await self._next_page(WAIT_SECONDS)
            if self._reached == reached:
                return  # what was written after it has been removed
            yield page

    async def _begin(self, start: dict[str, object]) -> None:
        """Create a consumer that begins there."""
        config = {
            **start,
            "filter_subject": f"{self._prefix}>",
            "ack_policy": "none",
            "inactive_threshold": ABANDONED_SECONDS * NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        query = jetstream.encode({"stream_name": self._stream, "config": config})
        reply = await self._inbox.request(f"$JS.API.CONSUMER.CREATE.{self._stream}", query)
        created = jetstream.decode_consumer(reply.data)
        if created.error:
            raise StoreUnavailable(f"consumer of {self._stream}: {created.error.description}")
        self._consumer, self._left, self._received = created.name, created.num_pending, 0

    async def _next_page(self, wait_seconds: float = 0) -> list[Stored]:
        """Return the next values; if there are none, wait so long for the first."""
        self._page, self._whole = [], asyncio.get_running_loop().create_future()
        await self._ask(self._whole, int(wait_seconds * NANOSECONDS))
        return self._page

    async def _ask(self, whole: asyncio.Future[None], expires: int) -> None:
        self._asked_for = min(self._page_size, self._left or self._page_size)
        query = jetstream.encode({"batch": self._asked_for, "no_wait": True, "expires": expires})
        if not self._connection.connected:
            raise StoreUnavailable("not connected to NATS")
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                await self._connection.publish(self._next_subject, query, self._reply_to)
                await whole
        except TimeoutError:
            raise StoreUnavailable(f"{self._stream}: no more values within {PAGE_SECONDS:g} s") from None
        except nats.errors.Error as error:
            raise StoreUnavailable(str(error)) from error

    @property
    def _next_subject(self) -> str:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"

    def _deny(self, error: Exception) -> None:
        """End with the reason if the server denies a page: it sends no answer then."""
        denied = permissions.denial_in(error)
        if denied and denied.is_of("publish", self._next_subject) and self._whole and not self._whole.done():
            self._whole.set_exception(NotPermitted(str(denied)))

    def _receive(self, msg: Msg) -> None:
        try:
            self._take(msg)
        except ValueError:  # an acknowledgement subject that cannot be read
            self._lose()

    def _take(self, msg: Msg) -> None:
        if self._whole is None or self._whole.done():
            return
        headers = msg.headers or {}
        if status := headers.get(jetstream.STATUS):
            self._end(status)
            return
        *_, stream_sequence, consumer_sequence, _, pending = msg.reply.split(".")
        self._received += 1
        self._read += 1
        if int(consumer_sequence) != self._received:
            self._lose()
            return
        deleted = jetstream.is_deleted(headers)
        if not deleted or self._with_deleted:
            self._page.append(Stored(msg.subject[len(self._prefix) :], msg.data, int(stream_sequence), deleted))
        self._reached = int(stream_sequence)
        self._left, self._asked_for = int(pending), self._asked_for - 1
        if not self._asked_for:
            self._whole.set_result(None)

    def _end(self, status: str) -> None:
        """End a page before all that was asked for has come, because there is no more, or the server cannot go on."""
        assert self._whole
        if status not in {jetstream.NO_RESULTS, jetstream.NO_MORE}:
            self._lose()
            return
        self._left = 0
        self._whole.set_result(None)

    def _lose(self) -> None:
        if self._whole and not self._whole.done():
            self._whole.set_exception(StoreUnavailable(f"{self._stream}: a message was lost while reading all values"))

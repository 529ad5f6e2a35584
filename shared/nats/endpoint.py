# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Serves the requests on one subject: a task and exactly one reply each, limits on requests in flight, a drain."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec
import nats.errors

from shared import contract
from shared.service.log import RateLimit
from shared.service.tasks import Tasks
from shared.telemetry.histogram import Histogram
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from shared.nats.connection import Connection
    from shared.telemetry.spans import Spans

    Headers = Mapping[str, str] | None
    Handler = Callable[[bytes, Headers], Awaitable[bytes]]
    """A coroutine from request bytes and headers to reply bytes; it drops the request bytes once they are decoded."""

log = logging.getLogger(__name__)

BUSY: Final = msgspec.json.encode(contract.ErrorResponse(contract.SERVICE_BUSY))
ERROR: Final = b'{"error":'  # every error reply, and no other, begins like this
FAILED: Final = msgspec.json.encode(contract.ErrorResponse(contract.INTERNAL_ERROR))
TOO_LARGE: Final = msgspec.json.encode(contract.ErrorResponse(contract.RESPONSE_TOO_LARGE))
CONFIRMED_BYTES: Final = 1024  # larger replies are replaced if the server did not accept them
RESERVED: Final = ("$", f"{contract.SEND_EMAIL_SUBJECT.rpartition('.')[0]}.")  # no inbox begins like this
LARGE_BYTES: Final = 65_536  # of a request that takes more than about a millisecond
READ_FIRST_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.02
FLOOD_BYTES_PER_SECOND: Final = 100_000_000  # more than one process can serve
FLOOD_BYTES: Final = 1_000_000  # so many above this rate are a flood
MAX_EXCESS_BYTES: Final = 3_000_000  # a flood is over 20 ms after its last request


def unreserved(limit: int) -> int:
    """Return the part of a limit that one group may take: without the last quarter, but at least 1."""
    return limit - limit // 4


class ByteLimit:
    """A limit on the bytes of the requests in flight, which the endpoints of a process share.

    A request that is larger than the limit is served when no other is.
    """

    def __init__(self, limit: int) -> None:
        """Allow `limit` bytes."""
        self._limit = limit
        self.in_flight = 0

    def allows(self, size: int) -> bool:
        """Return whether a request of this size may be served now."""
        return not self.in_flight or self.in_flight + size <= self._limit

    def reserves(self, size: int) -> bool:
        """Return whether a request of this size would take bytes of the last quarter."""
        return self.in_flight > 0 and self.in_flight + size > unreserved(self._limit)


class Flood:
    """Notices that large requests arrive faster than they can be served."""

    def __init__(self) -> None:
        """Begin without requests."""
        self._bytes = self._at = 0.0

    def add(self, size: int) -> None:
        """Count a request that arrives now."""
        self._bytes = min(self._excess() + size, MAX_EXCESS_BYTES)
        self._at = time.monotonic()

    def __bool__(self) -> bool:
        """Return whether there is a flood now."""
        return self._excess() > FLOOD_BYTES

    def _excess(self) -> float:
        return max(0.0, self._bytes - (time.monotonic() - self._at) * FLOOD_BYTES_PER_SECOND)


class Share(Protocol):
    """Keeps one group of requests from taking all of the limits."""

    def admits(self, data: bytes) -> bool:
        """Return whether a request leaves enough for the requests of other groups."""

    def hold(self, data: bytes) -> Callable[[], None]:
        """Count a request that waits until the handler counts it; return a function that ends this, once or more."""


def is_inbox(reply: str) -> bool:
    """Return whether a reply may be sent to a subject; false where it would write to KV or be taken for a push event.

    NATS checks this service's permission to publish the reply, not the permission of the caller who chose the subject.
    Messages that a stream delivers have such a subject too (`$JS.ACK.…`), and are not requests of a caller.
    """
    return not reply.startswith(RESERVED)


class Endpoint:
    """Answers requests as long as its context is open; on leaving, it first answers those that it has received."""

    def __init__(  # noqa: PLR0913 - its dependencies, and three limits
        self,
        connection: Connection,
        subject: str,
        handler: Handler,
        *,
        max_in_flight: int,
        byte_limit: ByteLimit | None = None,
        share: Share | None = None,
        spans: Spans = NO_SPANS,
    ) -> None:
        """Serve requests on `subject` with `handler`; the replicas share them as a queue group.

        A request that would take the last quarter of a limit is served only if `share` admits it.
        """
        self._connection = connection
        self.subject = subject
        self._handler = handler
        self._max_in_flight = max_in_flight
        self._bytes = byte_limit or ByteLimit(sys.maxsize)
        self._share = share
        self._turn = asyncio.Lock()
        self._flood = Flood()
        self._spans = spans
        self._attributes = {"messaging.system": "nats", "messaging.destination.name": subject}
        self._in_flight = Tasks()
        self._refusals = Tasks()
        self._refusal_lines = RateLimit(lines=1, seconds=1)
        self._ignored_lines = RateLimit(lines=1, seconds=1)
        self.busy = self.failed = self.errors = 0
        self._last_error = b""
        self.seconds = Histogram()
        self._subscription: Subscription | None = None

    @property
    def last_error(self) -> str:
        """The error string of the last error reply; empty before the first one."""
        return _error_in(self._last_error) if self._last_error else ""

    @property
    def in_flight(self) -> int:
        """How many requests are being served."""
        return len(self._in_flight)

    async def __aenter__(self) -> Self:
        """Subscribe."""
        self._subscription = await self._connection.subscribe(
            self.subject, self._receive, contract.QUEUE_GROUP, refuses=self._refuses, required=True
        )
        await self._connection.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Unsubscribe and answer the requests that were received; if cancelled meanwhile, cancel them."""
        assert self._subscription, "entered"
        try:
            await self._connection.drain(self._subscription)
        except asyncio.CancelledError:
            self._in_flight.cancel()
            await self._in_flight.wait()
            raise
        log.info("endpoint.draining", extra={"subject": self.subject, "in_flight": len(self._in_flight)})
        await self._in_flight.wait()
        await self._refusals.wait()

    def _refuses(self, reply: str, size: int) -> bool:
        """Refuse or ignore a large request before it is read, as `_receive` would do; return whether it did."""
        self._flood.add(size)
        if not is_inbox(reply):
            self._ignore(reply)
        elif not self._allows(size):
            self._refuse(reply)
        else:
            return False
        return True

    def _receive(self, msg: Msg) -> None:
        size = _size(msg)
        if not is_inbox(msg.reply):
            self._ignore(msg.reply)
        elif not self._allows(size):
            self._refuse(msg.reply)
        elif self._share and self._reserves(size):
            self._bytes.in_flight += size
            asyncio.get_running_loop().call_soon(self._decide, msg, size, self._share)
        elif self._share and len(msg.data) > LARGE_BYTES:  # it waits for its turn before the handler counts it
            self._start(msg, size, self._share.hold(msg.data))
        else:
            self._start(msg, size)

    def _decide(self, msg: Msg, size: int, share: Share) -> None:
        """Serve or refuse a request, now that the handler has counted those that came with it in one read."""
        self._release(size)
        if self._allows(size) and share.admits(msg.data):
            self._start(msg, size, share.hold(msg.data))
        else:
            self._refuse(msg.reply)

    def _start(self, msg: Msg, size: int, begin: Callable[[], None] | None = None) -> None:
        """Serve a request; call `begin` when its handler begins, or when it ends before."""
        self._bytes.in_flight += size
        work = self._serve(msg.reply, msg.data, msg.headers, begin)
        serving = self._in_flight.start(work, at_end=partial(self._release, size))
        if begin:
            serving.add_done_callback(lambda _: begin())

    def _reserves(self, size: int) -> bool:
        return len(self._in_flight) >= unreserved(self._max_in_flight) or self._bytes.reserves(size)

    def _allows(self, size: int) -> bool:
        return len(self._in_flight) < self._max_in_flight and self._bytes.allows(size)

    def _release(self, size: int) -> None:
        self._bytes.in_flight -= size

    def _refuse(self, reply: str) -> None:
        self.busy += 1
        fields = self._refusal_lines.allows()
        if fields is not None:
            in_flight = {"in_flight": len(self._in_flight), "in_flight_bytes": self._bytes.in_flight}
            log.warning("request.busy", extra={"subject": self.subject, **in_flight, **fields})
        self._refusals.start(self._reply(reply, BUSY))

    def _ignore(self, reply: str) -> None:
        fields = self._ignored_lines.allows()
        if fields is not None:
            log.warning("request.ignored", extra={"subject": self.subject, "reply": reply, **fields})

    async def _serve(self, reply_to: str, data: bytes, headers: Headers, begin: Callable[[], None] | None) -> None:
        reply = FAILED
        began = time.monotonic()
        try:
            if len(data) > LARGE_BYTES:
                await self._take_turn(began)
            if begin:
                begin()
            with self._spans.start(self.subject, "server", self._attributes, headers=headers or {}) as span:
                handling = self._handler(data, headers)
                del data, headers  # only the handler refers to them, until it has decoded them
                reply = await handling
                if reply.startswith(ERROR):
                    span.fail(_error_in(reply))
        except Exception:
            self.failed += 1
            log.exception("request.failed", extra={"subject": self.subject})
        finally:  # also if the task is cancelled because the time to stop is over
            await self._reply(reply_to, reply)
            self.seconds.observe(time.monotonic() - began)

    async def _take_turn(self, began: float) -> None:
        """Return in a turn of the event loop in which no other large request begins.

        Each takes milliseconds. While many others arrive, they are read first: most of them will be refused, and the
        server closes a connection that is read too slowly.
        """
        async with self._turn:
            await asyncio.sleep(0)
            while self._flood or self._connection.is_behind:
                await asyncio.sleep(PAUSE_SECONDS if self._flood else 0)
                if time.monotonic() > began + READ_FIRST_SECONDS:
                    break

    async def _reply(self, reply_to: str, reply: bytes) -> None:
        if len(reply) > await self._connection.payload_limit(len(reply)):
            reply = self._too_large(reply)
        if reply.startswith(ERROR):
            self.errors += 1
            self._last_error = reply
        if not reply_to:
            return
        try:
            await self._connection.publish(reply_to, reply)
            if len(reply) > CONFIRMED_BYTES and not await self._is_accepted(reply):
                await self._connection.publish(reply_to, self._too_large(reply))
        except nats.errors.Error as error:
            log.error("reply.undeliverable", extra={"subject": self.subject, "error": repr(error)})

    async def _is_accepted(self, reply: bytes) -> bool:
        """Return whether the server has read the reply; false if it lost the connection, and its limit is too low."""
        return await self._connection.has_read() or len(reply) <= self._connection.max_payload

    def _too_large(self, reply: bytes) -> bytes:
        log.error("reply.too_large", extra={"subject": self.subject, "bytes": len(reply)})
        return TOO_LARGE


def _size(msg: Msg) -> int:
    headers = msg.headers
    return len(msg.data) + (sum(len(name) + len(value) for name, value in headers.items()) if headers else 0)


def _error_in(reply: bytes) -> str:
    return msgspec.json.decode(reply, type=contract.ErrorResponse).error

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivers a message: once if all goes well, again while the request's time lasts, never twice."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from relay.errors import Barred, ConnectionStale, Deferred, DeliveryError
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from relay.smtp.connection import Envelope, SmtpConnection
    from relay.smtp.pool import Pool
    from shared.telemetry.spans import Attributes, Spans

log = logging.getLogger(__name__)

BARRED_SECONDS: Final = 5.0

_backoff = wait_random_exponential(multiplier=0.2, max=2)


class Delivery:
    """Sends over pooled connections."""

    event = "email.sent"

    def __init__(
        self, pool: Pool[SmtpConnection], *, max_send_rate: float, server: tuple[str, int], spans: Spans = NO_SPANS
    ) -> None:
        """Send at most `max_send_rate` messages a second, 0 for as fast as possible; spans name the `server`."""
        self._pool = pool
        self._limiter = AsyncLimiter(1, 1 / max_send_rate) if max_send_rate else None  # one at a time: no bursts
        self._spans = spans
        self._attributes: dict[str, str | int] = {"server.address": server[0], "server.port": server[1]}
        self._barred: Barred | None = None
        self._barred_until = 0.0
        self.transactions: Counter[tuple[str, str]] = Counter({("uncertain", "none"): 0})  # the first is an increase
        self.retries = self.throttles = self.bars = 0

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float) -> None:
        """Deliver; no attempt starts after `deadline` (loop time in seconds).

        Raises:
            DeliveryError: it was not, or nobody knows.
        """
        try:
            await self._attempt(envelope, message, deadline)
        except Deferred as error:
            await self._again(envelope, message, deadline, error)

    async def _again(self, envelope: Envelope, message: bytes, deadline: float, failure: Deferred) -> None:
        """Repeat after pauses. tenacity costs 35 us even if nothing is repeated; so it hears of a failure only here."""
        async for attempt in _retrying(deadline):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise failure
                self.retries += 1
                await self._attempt(envelope, message, deadline)

    async def _attempt(self, envelope: Envelope, message: bytes, deadline: float) -> None:
        self._refuse_if_barred()
        connection = await self._connection(deadline)
        try:
            self._refuse_if_barred()  # since we began to wait
            await self._transact(connection, envelope, message)
        finally:
            self._pool.release(connection)

    async def _transact(self, connection: SmtpConnection, envelope: Envelope, message: bytes) -> None:
        attributes: Attributes = {**self._attributes, "messaging.message.body.size": len(message)}
        with self._spans.start("SMTP transaction", "client", attributes) as span:
            try:
                await connection.send(envelope, message)
                self.transactions["accepted", "2xx"] += 1
            except DeliveryError as error:
                span.fail(type(error).__name__.lower(), {"smtp.response.status_code": error.code})
                self._count(error)
                if isinstance(error, Barred):
                    self._bar(error)
                raise

    async def _connection(self, deadline: float) -> SmtpConnection:
        if _now() >= deadline:  # KV took its time over the key or the suppression list
            raise Deferred("the request's time was over before an attempt could begin")
        if not self._limiter and (connection := self._pool.take()):
            return connection
        is_held_back = self._limiter is not None
        try:
            async with asyncio.timeout_at(deadline):
                if self._limiter:
                    await self._limiter.acquire()
                    self._refuse_if_barred()
                    is_held_back = False
                return await self._pool.acquire()
        except TimeoutError:
            raise Deferred(self._why_none(is_held_back=is_held_back)) from None
        except Barred as error:
            self._bar(error)
            raise

    def _why_none(self, *, is_held_back: bool) -> str:
        if is_held_back:
            return "held back by SES_MAX_SEND_RATE for longer than the request's time"
        if self._pool.state().leased:
            return "no SMTP connection came free within the request's time"
        return "the server did not accept a connection within the request's time"

    def _refuse_if_barred(self) -> None:
        if self._barred and _now() < self._barred_until:
            raise Barred(self._barred.text, self._barred.code)  # a new one: each keeps the frames it passed through

    def _bar(self, error: Barred) -> None:
        """Let nobody try for a while: each try of each request would count against the account."""
        if _now() < self._barred_until:
            return
        log.error("smtp.barred", extra={"seconds": BARRED_SECONDS, "code": error.code, "error": error.text})
        self._barred, self._barred_until = error, _now() + BARRED_SECONDS
        self.bars += 1

    def _count(self, error: DeliveryError) -> None:
        code_class = f"{error.code // 100}xx" if error.code else "none"
        self.transactions[type(error).__name__.lower(), code_class] += 1
        self.throttles += "throttling" in error.text.lower()


class Disabled:
    """The sibling for EMAIL_ENABLED=false: every message counts as delivered, none is sent."""

    event = "email.disabled"

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float) -> None:
        """Do nothing."""


def _retrying(deadline: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(Deferred),
        wait=_pause,
        stop=lambda state: _now() + state.upcoming_sleep >= deadline,
        before_sleep=_log_retry,
        reraise=True,
    )


def _pause(state: RetryCallState) -> float:
    return 0 if isinstance(_failure(state), ConnectionStale) else _backoff(state)


def _log_retry(state: RetryCallState) -> None:
    log.debug("email.retry", extra={"attempt": state.attempt_number + 1, "error": str(_failure(state))})


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _now() -> float:
    return asyncio.get_running_loop().time()

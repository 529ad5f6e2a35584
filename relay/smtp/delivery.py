# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivers one message: tries again while the time of the request lasts, and never sends it twice."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from relay.errors import AccountRefused, ConnectionStale, Deferred, DeliveryError, HeldBack, Throttled
from shared.telemetry.spans import NO_SPANS

if TYPE_CHECKING:
    from relay.envelope import Envelope
    from relay.smtp.connection import SmtpConnection
    from relay.smtp.pool import Pool
    from relay.smtp.send_rate import SendRate
    from shared.telemetry.spans import Attributes, Spans

log = logging.getLogger(__name__)

CIRCUIT_OPEN_SECONDS: Final = 5.0

_backoff = wait_random_exponential(multiplier=0.2, max=2)


class Delivery:
    """Sends over pooled connections. When the server refuses the account, sending stops for a while (circuit open)."""

    event = "email.sent"

    def __init__(
        self,
        pool: Pool[SmtpConnection],
        *,
        send_rate: SendRate,
        server: tuple[str, int],
        spans: Spans = NO_SPANS,
    ) -> None:
        """Send over these connections at `send_rate`; spans name the `server`."""
        self._pool = pool
        self.send_rate = send_rate
        self._spans = spans
        self._attributes: dict[str, str | int] = {"server.address": server[0], "server.port": server[1]}
        self._refusal: AccountRefused | None = None
        self._circuit_open_until = 0.0
        self.transactions: Counter[tuple[str, str]] = Counter()
        self.transactions["uncertain", "none"] = 0  # Prometheus sees no increase in a series that begins with 1
        self.retries = self.throttles = self.circuit_openings = 0

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float, group: str) -> None:
        """Deliver; no attempt starts after `deadline` (of `time.monotonic`). While emails wait, groups go by turns.

        Raises:
            DeliveryError: the mail server did not accept the message, or the outcome is unknown.
        """
        sending = _Sending(envelope, message, deadline, group)
        try:
            await self._attempt(sending)
        except Deferred as error:
            await self._retry(sending, error)

    async def _retry(self, sending: _Sending, failure: Deferred) -> None:
        """Try again after pauses. Tenacity takes 35 us even for a success, so the first attempt is made without it."""
        async for attempt in _retrying(sending.deadline):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise failure
                self.retries += 1
                try:
                    await self._attempt(sending)
                except HeldBack:  # but an earlier attempt was made
                    raise failure from None

    async def _attempt(self, sending: _Sending) -> None:
        connection = await self._lease(sending)
        generation = self.send_rate.generation
        attributes: Attributes = {**self._attributes, "messaging.message.body.size": len(sending.message)}
        try:
            self._check_circuit()  # again after the wait
            with self._spans.start("SMTP transaction", "client", attributes) as span:
                try:
                    await connection.send(sending.envelope, sending.message)
                except DeliveryError as error:
                    sending.failure = error
                    span.fail(error.outcome, {"smtp.response.status_code": error.code})
                    self._count_failure(error, generation)
                    raise
            self.send_rate.accepted()
            self.transactions["accepted", "2xx"] += 1
        finally:
            sending.refused_on = connection if connection.refusals else None
            self._pool.release(connection)

    async def _lease(self, sending: _Sending) -> SmtpConnection:
        self._check_circuit()
        if time.monotonic() >= sending.deadline:  # the key, the suppression list or the pause took too long
            text = "the request's time was over before an attempt could begin"
            raise _last_refusal(sending.failure) or Deferred(text)
        if not self.send_rate.is_limited and (connection := self._pool.take(sending.refused_on)):
            return connection
        try:
            async with asyncio.timeout_at(sending.deadline):
                connection = await self._wait(sending)
            if time.monotonic() >= sending.deadline:  # on a busy machine
                self._pool.release(connection)
                raise TimeoutError
        except TimeoutError:
            raise self._without_connection(sending) from None
        except AccountRefused as error:
            self._open_circuit(error)
            raise
        return connection

    async def _wait(self, sending: _Sending) -> SmtpConnection:
        """Return a connection when it is free and the send rate allows the email."""
        if self.send_rate.is_limited:
            return await self._lease_in_turn(sending)
        generation, again = self.send_rate.generation, sending.failure is not None
        connection = await self._pool.acquire(sending.refused_on, group=sending.group, again=again)
        if generation == self.send_rate.generation:
            return connection
        self._pool.release(connection)  # the server throttles since this email began to wait
        return await self._lease_in_turn(sending)

    async def _lease_in_turn(self, sending: _Sending) -> SmtpConnection:
        group, again = sending.group, sending.failure is not None
        throttled = isinstance(sending.failure, Throttled)
        sending.is_held_back = True
        async with self.send_rate.turn(group, again=again, throttled=throttled):
            self._check_circuit()
            try:
                connection = await self._pool.acquire(sending.refused_on, group=group, again=again)
            finally:
                sending.is_held_back = self.send_rate.holds_back
            try:
                await self.send_rate.moment(group, again=again, throttled=throttled)
            except BaseException:
                self._pool.release(connection)
                raise
        return connection

    def _without_connection(self, sending: _Sending) -> Deferred:
        if sending.is_held_back and not self._pool.failure:
            text = "held back by the send rate for longer than the request's time"
            return HeldBack(f"{text}: the mail server refuses more" if self.send_rate.throttled_rate else text)
        if failure := _last_refusal(self._pool.failure or sending.failure):
            return failure
        if self._pool.state().leased:
            return Deferred("no SMTP connection came free within the request's time")
        return Deferred("the server did not accept a connection within the request's time")

    def _check_circuit(self) -> None:
        if self._refusal and time.monotonic() < self._circuit_open_until:
            raise AccountRefused(self._refusal.text, self._refusal.code)  # a new error: a shared traceback would grow

    def _open_circuit(self, error: AccountRefused) -> None:
        """Refuse all sends for a while: the server counts each try against the account."""
        if time.monotonic() < self._circuit_open_until:
            return
        log.error("smtp.barred", extra={"seconds": CIRCUIT_OPEN_SECONDS, "code": error.code, "error": error.text})
        self._refusal, self._circuit_open_until = error, time.monotonic() + CIRCUIT_OPEN_SECONDS
        self.circuit_openings += 1

    def _count_failure(self, error: DeliveryError, generation: int) -> None:
        if isinstance(error, AccountRefused):
            self._open_circuit(error)
        elif isinstance(error, Throttled):
            self.send_rate.refused(generation)
        code_class = f"{error.code // 100}xx" if error.code else "none"
        self.transactions[error.outcome, code_class] += 1
        self.throttles += "throttling" in error.text.lower()


class _Sending:
    """An email and its last failure: why, and on which connection. Servers such as postscreen admit only a new one."""

    def __init__(self, envelope: Envelope, message: bytes, deadline: float, group: str) -> None:
        self.envelope = envelope
        self.message = message
        self.deadline = deadline
        self.group = group
        self.is_held_back = False
        self.refused_on: SmtpConnection | None = None
        self.failure: DeliveryError | None = None


class DisabledDelivery:
    """Used with EMAIL_ENABLED=false: every message counts as delivered, and none is sent."""

    event = "email.disabled"

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float, group: str) -> None:
        """Do nothing."""


def _last_refusal(failure: Exception | None) -> Deferred | None:
    """Return the failure that explains more than a time-out, as a new error: a shared traceback would grow."""
    return Deferred(failure.text, failure.code) if isinstance(failure, Deferred) else None


def _retrying(deadline: float) -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(Deferred),
        wait=_pause,
        stop=lambda state: time.monotonic() + state.upcoming_sleep >= deadline,
        before_sleep=_log_retry,
        reraise=True,
    )


def _pause(state: RetryCallState) -> float:
    """Return 0 also for an email that was throttled: the send rate has a place for it."""
    return 0 if isinstance(_failure(state), ConnectionStale | Throttled) else _backoff(state)


def _log_retry(state: RetryCallState) -> None:
    log.debug("email.retry", extra={"attempt": state.attempt_number + 1, "error": str(_failure(state))})


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None

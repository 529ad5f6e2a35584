# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sending to servers that accept a rate and refuse the rest: delivery, pool and send rate in simulated time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from relay.envelope import Envelope
from relay.errors import Deferred, DeliveryError, HeldBack, Throttled
from relay.smtp.delivery import Delivery
from relay.smtp.pool import Pool, PoolLimits
from relay.smtp.send_rate import SendRate
from tests.stack import simulated_time

if TYPE_CHECKING:
    from collections.abc import Callable

ENVELOPE: Final = Envelope("noreply@example.org", "ada@example.com")
CALLERS: Final = 64
CONNECTIONS: Final = 32
WITHIN_SECONDS: Final = 8.0
MINUTE: Final = 60.0
HANDSHAKE_REPLIES: Final = 3
REPLIES: Final = 4  # to MAIL, RCPT, DATA and the final dot


class FixedWindow:
    """Counts the emails of each second of the clock."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._second = self._count = 0

    def accepts(self, now: float) -> bool:
        """Return whether an email at this time is accepted."""
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        return self._count <= self._rate


class SlidingWindow:
    """Counts the accepted emails of the last second."""

    def __init__(self, rate: int) -> None:
        self._accepted: deque[float] = deque([-1.0] * rate, maxlen=rate)

    def accepts(self, now: float) -> bool:
        """Return whether an email at this time is accepted."""
        if now - self._accepted[0] < 1:
            return False
        self._accepted.append(now)
        return True


class TokenBucket:
    """Collects the right to send one email `rate` times a second, up to the number of a second."""

    def __init__(self, rate: int) -> None:
        self._rate = self._tokens = float(rate)
        self._counted_at = 0.0

    def accepts(self, now: float) -> bool:
        """Return whether an email at this time is accepted."""
        self._tokens = min(self._rate, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


Window = FixedWindow | SlidingWindow | TokenBucket


class Server:
    """Decides at the final dot, as SES does."""

    def __init__(self, window: Window, reply_seconds: float) -> None:
        self.accepted = self.refused = 0
        self._window = window
        self._reply_seconds = reply_seconds

    async def connect(self) -> Connection:
        """Open a connection."""
        await asyncio.sleep(HANDSHAKE_REPLIES * self._reply_seconds)
        return Connection(self)

    async def transact(self) -> None:
        """Take a transaction, and refuse the email if it is one too many."""
        await asyncio.sleep((REPLIES - 0.5) * self._reply_seconds)
        is_accepted = self._window.accepts(now())
        self.accepted += is_accepted
        self.refused += not is_accepted
        await asyncio.sleep(0.5 * self._reply_seconds)
        if not is_accepted:
            raise Throttled("Throttling failure: Maximum sending rate exceeded.", 454)


class Connection:
    """A connection as the pool and the delivery use it."""

    def __init__(self, server: Server) -> None:
        self.transactions = self.refusals = 0
        self.is_proven = False
        self.is_usable = True
        self._server = server

    async def send(self, _envelope: Envelope, _message: bytes) -> None:
        """Send an email."""
        self.transactions += 1
        self.is_proven = True
        await self._server.transact()

    async def quit(self) -> None:
        """Close at once."""


class Result(NamedTuple):
    """What the callers saw: the errors of emails that were not sent, and the time that all of it took."""

    errors: list[DeliveryError]
    seconds: float


def now() -> float:
    return asyncio.get_running_loop().time()


async def send(server: Server, *, emails: int, seconds: float = MINUTE, singly: bool = False) -> Result:
    """Send by 64 callers, each of whom sends the next email when the last one is answered; `singly` without a group."""
    limits = PoolLimits(CONNECTIONS, messages=100_000, idle_seconds=5, age_seconds=3600)
    left, errors = deque(range(emails)), []
    async with Pool(server.connect, limits, temporary=Deferred) as pool:
        deliver = Delivery(pool, send_rate=SendRate(), server=("localhost", 25))  # type: ignore[arg-type] # not SMTP

        async def call() -> None:
            while left and now() < seconds:
                number = left.popleft()
                group = str(number) if singly else ""
                try:
                    await deliver(ENVELOPE, b"", deadline=now() + WITHIN_SECONDS, group=group)
                except DeliveryError as error:
                    errors.append(error)

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(call())
        return Result(errors, now())


windows = pytest.mark.parametrize("window", [FixedWindow, SlidingWindow, TokenBucket])


@windows
@pytest.mark.parametrize("reply_seconds", [0.001, 0.02, 0.2])
@pytest.mark.parametrize("rate", [1, 2, 5, 14, 60])
def test_few_emails_are_refused_and_most_of_the_rate_is_used(
    window: Callable[[int], Window], rate: int, reply_seconds: float
) -> None:
    server = Server(window(rate), reply_seconds)
    result = simulated_time.run(send(server, emails=100_000, seconds=MINUTE if rate < 60 else MINUTE / 2))
    assert server.refused < (server.accepted + server.refused) / 10
    fastest = CONNECTIONS / (REPLIES * reply_seconds)
    assert server.accepted > 0.8 * min(rate, 0.9 * fastest) * (result.seconds - WITHIN_SECONDS)


@windows
@pytest.mark.parametrize("reply_seconds", [0.001, 0.02])
@pytest.mark.parametrize("rate", [14, 60])
def test_no_email_is_lost_that_the_rate_can_serve(
    window: Callable[[int], Window], rate: int, reply_seconds: float
) -> None:
    server = Server(window(rate), reply_seconds)
    assert simulated_time.run(send(server, emails=100_000, seconds=MINUTE / 2, singly=True)).errors == []


@windows
@pytest.mark.parametrize(("reply_seconds", "refused"), [(0.001, 6), (0.02, 8), (0.1, 12)])
def test_64_callers_at_once_lose_no_email_and_few_are_refused(
    window: Callable[[int], Window], reply_seconds: float, refused: int
) -> None:
    server = Server(window(14), reply_seconds)
    result = simulated_time.run(send(server, emails=CALLERS))
    assert (server.accepted, result.errors) == (CALLERS, [])
    assert server.refused <= refused


@windows
def test_emails_that_were_never_refused_wait_within_their_time(window: Callable[[int], Window]) -> None:
    server = Server(window(2), 0.02)
    result = simulated_time.run(send(server, emails=CALLERS))
    refused = [error for error in result.errors if not isinstance(error, HeldBack)]
    assert len(refused) <= server.refused
    assert server.accepted >= 0.8 * 2 * WITHIN_SECONDS


@windows
def test_a_server_that_takes_everything_is_never_limited(window: Callable[[int], Window]) -> None:
    server = Server(window(100_000), 0.02)
    result = simulated_time.run(send(server, emails=3000))
    assert (server.accepted, server.refused, result.errors) == (3000, 0, [])
    assert result.seconds < 3000 / CONNECTIONS * REPLIES * 0.02 + 1

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sends the rows of a mailing through the running relay, several at the same time, and stops when the relay does."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

from relay.commands.mailing.results import RowOutcome
from shared import contract
from shared.commands import command
from shared.errors import PublishDenied, ReplyDenied, RequestRefused, RequestUnanswered, ServiceUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from relay.commands.mailing.rows import Row
    from shared.commands.caller import Caller

    Record = Callable[[Row, RowOutcome], None]

PATIENCE_SECONDS: Final = 60.0  # with a service that cannot be reached, since it last answered
BUSY_PATIENCE_SECONDS: Final = 600.0  # with a service that is busy, since it last accepted a row: its rate may be low
PAUSES: Final = wait_random_exponential(multiplier=0.4, min=0.1, max=5)
RECONNECT_POLL_SECONDS: Final = 0.1
UNCERTAIN_ERRORS: Final = frozenset(
    {contract.DELIVERY_FAILED, contract.INTERNAL_ERROR, contract.OUTCOME_UNKNOWN, contract.REQUEST_IN_PROGRESS}
)
"""Errors after which the email may have been sent, unless the reply has the outcome `not_sent`."""


class Mailer:
    """Sends rows; `record` is called before each request and with each outcome."""

    def __init__(self, caller: Caller, record: Record, *, concurrency: int, timeout: float) -> None:
        """Send `concurrency` requests at the same time, and wait `timeout` seconds for each answer."""
        self._caller = caller
        self._record = record
        self._concurrency = concurrency
        self._timeout = timeout
        self._stopping = asyncio.Event()
        self._answered_at = self._accepted_at = -math.inf
        self._unanswered = 0
        self.stopped = ""  # the reason why not all rows were sent
        self.denied = False  # whether a missing permission is that reason

    async def send(self, rows: Iterable[Row]) -> None:
        """Send all rows. When cancelled, wait for the outstanding answers; a second cancellation abandons them."""
        waiting = iter(rows)
        work = asyncio.gather(*(self._work(waiting) for _ in range(self._concurrency)))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping.set()
            command.say("Stopping: waiting for outstanding answers. Press Ctrl-C again to leave without them.")
            try:
                await asyncio.shield(work)
            finally:
                work.cancel()
            raise

    async def _work(self, waiting: Iterator[Row]) -> None:
        while not self._stopping.is_set() and (row := next(waiting, None)):
            await self._send(row)

    async def _send(self, row: Row) -> None:
        retrying = AsyncRetrying(retry=retry_if_result(_is_unsent), wait=PAUSES, sleep=self._pause)
        try:
            outcome: RowOutcome = await retrying(self._attempt, row, time.monotonic())
        except _Stopped:
            outcome = RowOutcome("unsent", error="the run was stopped before")
        except _OutOfPatience as error:
            outcome = RowOutcome("unsent", error=f"not accepted: {error}")
            self._stop(str(error))
        self._record(row, outcome)

    async def _attempt(self, row: Row, begun: float) -> RowOutcome:
        while not self._caller.connection.connected:
            self._wait_for_contact(begun)
            await self._pause(RECONNECT_POLL_SECONDS)
        self._record(row, RowOutcome("sending"))
        outcome = await self._ask(row)
        if _is_unsent(outcome):
            self._record(row, outcome)
            self._wait_for_turn(begun) if _is_busy(outcome) else self._wait_for_contact(begun)
        return outcome

    def _wait_for_contact(self, begun: float) -> None:
        if time.monotonic() - max(begun, self._answered_at) >= PATIENCE_SECONDS:
            raise _OutOfPatience(f"the service was unreachable for {PATIENCE_SECONDS:g} s")

    def _wait_for_turn(self, begun: float) -> None:
        """Raise if the service is too busy for any row: one that waits while others are accepted is not abandoned."""
        if time.monotonic() - max(begun, self._accepted_at) >= BUSY_PATIENCE_SECONDS:
            raise _OutOfPatience(f"the service was busy for {BUSY_PATIENCE_SECONDS:g} s")

    async def _ask(self, row: Row) -> RowOutcome:
        try:
            outcome = await _outcome_of(self._caller, row.request, self._timeout)
        except (PublishDenied, ReplyDenied) as error:
            self.denied = True
            self._stop(str(error))
            outcome = RowOutcome("unsent" if isinstance(error, PublishDenied) else "unknown", error=str(error))
        if _is_unsent(outcome) and not _is_busy(outcome) and self._accepted_at == -math.inf:
            self._stop(outcome.error)  # the service was never reached
        if outcome.status not in {"unsent", "unknown"}:
            self._answered_at = self._accepted_at = time.monotonic()
        elif _is_busy(outcome):
            self._answered_at = time.monotonic()
        self._unanswered = self._unanswered + 1 if outcome.status == "unknown" else 0
        if self._unanswered >= self._concurrency:  # else every further row would have an unknown outcome
            self._stop("the service does not answer any more")
        return outcome

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._stopping.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise _Stopped


class _Stopped(Exception):
    """The run is stopping: no further request is sent."""


class _OutOfPatience(Exception):
    """The service has been busy or unreachable for too long."""


def _is_busy(outcome: RowOutcome) -> bool:
    return _is_unsent(outcome) and outcome.error == contract.SERVICE_BUSY


def _is_unsent(outcome: RowOutcome) -> bool:
    return outcome.status == "unsent"


async def _outcome_of(caller: Caller, request: contract.SendEmailRequest, timeout: float) -> RowOutcome:
    """Send one request; return the outcome by what a later run may do about it.

    Raises:
        PublishDenied, ReplyDenied: the NATS user may not send requests, or not receive the answers.
    """
    try:
        sent = await caller.ask(contract.SEND_EMAIL_SUBJECT, request, contract.SendEmailResponse, timeout=timeout)
    except RequestRefused as error:
        if error.error == contract.SERVICE_BUSY:
            return RowOutcome("unsent", error=str(error))
        is_uncertain = error.error in UNCERTAIN_ERRORS and error.outcome != "not_sent"
        return RowOutcome("failed" if is_uncertain else "refused", error=str(error))
    except (PublishDenied, ReplyDenied):
        raise
    except ServiceUnreachable as error:
        return RowOutcome("unsent", error=str(error))
    except RequestUnanswered as error:
        return RowOutcome("unknown", error=str(error))
    if not sent.email_id:
        return RowOutcome("filtered", error="outside SMTP_ALLOWED_RECIPIENT_DOMAINS")
    return RowOutcome("sent", email_id=sent.email_id, group_id=sent.group_id)

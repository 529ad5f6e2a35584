# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sends the rows of a mailing through the running relay, several at the same time, and stops when the relay does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

from relay.commands.mailing.results import RowOutcome
from shared import contract
from shared.commands import command
from shared.errors import RequestRefused, RequestUnanswered, ServiceUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relay.commands.mailing.rows import Row
    from shared.commands.caller import Caller

    Record = Callable[[Row, RowOutcome], None]

PATIENCE_SECONDS: Final = 60.0  # with a service that is busy or unreachable
PAUSES: Final = wait_random_exponential(multiplier=0.4, min=0.1, max=5)
RECONNECT_POLL_SECONDS: Final = 0.1
UNCERTAIN_ERRORS: Final = frozenset(
    {contract.DELIVERY_FAILED, contract.INTERNAL_ERROR, contract.OUTCOME_UNKNOWN, contract.REQUEST_IN_PROGRESS}
)
"""Errors after which the email may still have been sent: the mail server's last reply may have been lost."""


class Mailer:
    """Sends rows; `record` is called before each request and with each outcome."""

    def __init__(self, caller: Caller, record: Record, *, concurrency: int, timeout: float) -> None:
        """Send `concurrency` requests at the same time, and wait `timeout` seconds for each answer."""
        self._caller = caller
        self._record = record
        self._concurrency = concurrency
        self._timeout = timeout
        self._stopping = asyncio.Event()
        self._has_answered = False
        self._unanswered = 0
        self.stopped = ""  # the reason why not all rows were sent

    async def send(self, rows: Sequence[Row]) -> None:
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
        try:
            async with asyncio.timeout(PATIENCE_SECONDS) as patience:
                retrying = AsyncRetrying(retry=retry_if_result(_is_unsent), wait=PAUSES, sleep=self._pause)
                outcome: RowOutcome = await retrying(self._attempt, row, patience)
        except _Stopped:
            outcome = RowOutcome("unsent", error="the run was stopped before")
        except TimeoutError:
            outcome = RowOutcome("unsent", error=f"not accepted within {PATIENCE_SECONDS:g} s")
            self._stop(f"the service was busy or unreachable for {PATIENCE_SECONDS:g} s")
        self._record(row, outcome)

    async def _attempt(self, row: Row, patience: asyncio.Timeout) -> RowOutcome:
        while not self._caller.connection.connected:
            await self._pause(RECONNECT_POLL_SECONDS)
        self._record(row, RowOutcome("sending"))
        deadline = patience.when()
        patience.reschedule(None)  # the request has its own timeout
        outcome = await self._ask(row)
        if _is_unsent(outcome):
            patience.reschedule(deadline)
            self._record(row, outcome)
        return outcome

    async def _ask(self, row: Row) -> RowOutcome:
        outcome = await _outcome_of(self._caller, row.request, self._timeout)
        if _is_unsent(outcome) and outcome.error != contract.SERVICE_BUSY and not self._has_answered:
            self._stop(outcome.error)  # the service was never reached
        self._has_answered = self._has_answered or outcome.status not in {"unsent", "unknown"}
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


def _is_unsent(outcome: RowOutcome) -> bool:
    return outcome.status == "unsent"


async def _outcome_of(caller: Caller, request: contract.SendEmailRequest, timeout: float) -> RowOutcome:
    """Send one request; return the outcome by what a later run may do about it."""
    try:
        sent = await caller.ask(contract.SEND_EMAIL_SUBJECT, request, contract.SendEmailResponse, timeout=timeout)
    except RequestRefused as error:
        if error.error == contract.SERVICE_BUSY:
            return RowOutcome("unsent", error=str(error))
        return RowOutcome("failed" if error.error in UNCERTAIN_ERRORS else "refused", error=str(error))
    except ServiceUnreachable as error:
        return RowOutcome("unsent", error=str(error))
    except RequestUnanswered as error:
        return RowOutcome("unknown", error=str(error))
    if not sent.email_id:
        return RowOutcome("filtered", error="outside SMTP_ALLOWED_RECIPIENT_DOMAINS")
    return RowOutcome("sent", email_id=sent.email_id, group_id=sent.group_id)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sends the rows of a mailing through the running relay: some at once, each at most once, and stops when told to."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import msgspec

from relay.commands.mailing.results import Outcome
from shared import contract
from shared.errors import RequestRefused, RequestUnanswered, ServiceUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from relay.commands.mailing.rows import Row
    from shared.commands.caller import Caller

    Settle = Callable[[Row, Outcome], None]

PATIENCE_SECONDS: Final = 60.0  # with a service that is busy, or not there
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
LOOK_AGAIN_SECONDS: Final = 0.1
IN_DOUBT: Final = frozenset(
    {contract.DELIVERY_FAILED, contract.INTERNAL_ERROR, contract.OUTCOME_UNKNOWN, contract.REQUEST_IN_PROGRESS}
)
"""Errors after which the mail may have gone out after all, if rarely: the final dot may have had no answer."""


class Mailer:
    """Works through rows; `settle` is told before a row is asked for and when its outcome is known."""

    def __init__(
        self, caller: Caller, settle: Settle, say: Callable[[str], None], *, concurrency: int, timeout: float
    ) -> None:
        """Ask for `concurrency` emails at once, and wait `timeout` seconds for each answer."""
        self._say = say
        self._caller = caller
        self._settle = settle
        self._concurrency = concurrency
        self._timeout = timeout
        self._ending = asyncio.Event()
        self._has_answered = False
        self._unanswered = 0
        self.stopped = ""  # why, where the service is not there any more

    async def send(self, rows: Sequence[Row]) -> None:
        """Send all; when cancelled, wait for what is under way, and for a second cancellation no longer."""
        waiting = iter(rows)
        work = asyncio.gather(*(self._work(waiting) for _ in range(self._concurrency)))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._ending.set()
            self._say("Stopping: waiting for the answers that are under way. Ctrl-C again leaves them in doubt.")
            try:
                await asyncio.shield(work)
            finally:
                work.cancel()
            raise

    async def _work(self, waiting: Iterator[Row]) -> None:
        while not self._ending.is_set() and (row := next(waiting, None)):
            await self._send(row)

    async def _send(self, row: Row) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS) as patience:
                outcome = await self._asked_until_taken(row, patience)
        except _Ending:
            outcome = Outcome("unsent", error="stopped before it was asked for")
        except TimeoutError:
            outcome = Outcome("unsent", error=f"not taken within {PATIENCE_SECONDS:g} s")
            self._stop("the service is not there, or busy all the time")
        self._settle(row, outcome)

    async def _asked_until_taken(self, row: Row, patience: asyncio.Timeout) -> Outcome:
        pause = FIRST_PAUSE_SECONDS
        while True:
            while not self._caller.connection.connected:
                await self._pause(LOOK_AGAIN_SECONDS)
            self._settle(row, Outcome("sending"))
            deadline = patience.when()
            patience.reschedule(None)  # whoever is asked has the time of an answer
            outcome = await self._ask(row)
            if outcome.status != "unsent":
                return outcome
            patience.reschedule(deadline)
            self._settle(row, outcome)
            await self._pause(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _ask(self, row: Row) -> Outcome:
        outcome = await ask(self._caller, row.request, self._timeout)
        if outcome.status == "unsent" and outcome.error != contract.SERVICE_BUSY and not self._has_answered:
            self._stop(outcome.error)  # nobody was ever there
        self._has_answered = self._has_answered or outcome.status not in {"unsent", "unknown"}
        self._unanswered = self._unanswered + 1 if outcome.status == "unknown" else 0
        if self._unanswered >= self._concurrency:  # else the whole file would end in doubt
            self._stop("there are no answers any more")
        return outcome

    def _stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self._ending.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return
        raise _Ending


class _Ending(Exception):
    """Nothing more is begun."""


async def ask(caller: Caller, request: contract.SendEmailRequest, timeout: float) -> Outcome:
    """Ask once for an email, and sort the answer by what may be done about it."""
    try:
        sent = await caller.ask(contract.SEND_EMAIL_SUBJECT, request, contract.SendEmailResponse, timeout=timeout)
    except RequestRefused as error:
        if error.error == contract.SERVICE_BUSY:
            return Outcome("unsent", error=str(error))
        return Outcome("failed" if error.error in IN_DOUBT else "refused", error=str(error))
    except ServiceUnreachable as error:
        return Outcome("unsent", error=str(error))
    except RequestUnanswered as error:
        return Outcome("unknown", error=str(error))
    if not sent.email_id:
        return Outcome("filtered", error="outside SMTP_ALLOWED_RECIPIENT_DOMAINS")
    return Outcome("sent", email_id=sent.email_id, group_id=sent.group_id)


def with_group(row: Row, group_id: str) -> Row:
    """Return the row in a group, unless it names its own."""
    if row.request.group_id:
        return row
    return msgspec.structs.replace(row, request=msgspec.structs.replace(row.request, group_id=group_id))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A receiver and a settlement on a real queue, and updaters that return the verdicts of a test."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.stack import ses_events
from tests.stack.change import Change
from tests.tracker.examples import AT, EMAIL, GROUP
from tracker.events.receiver import Receiver
from tracker.events.record_updater import Applied, Verdict
from tracker.events.settlement import VISIBILITY_SECONDS, Settlement
from tracker.events.sqs import Queue
from tracker.events.store_outage import StoreOutage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.ses_event import EngagementEvent
    from tracker.events.settlement import Apply, Updater

LONG_AGO = 3600.0  # seconds


class Polling(NamedTuple):
    """The parts that work on the queue."""

    receiver: Receiver
    settlement: Settlement
    outage: StoreOutage


class Verdicts:
    """An updater that returns the given verdicts, the last one from then on, and keeps its calls and their times."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.asked: list[tuple[str, list[EngagementEvent]]] = []
        self.times: list[float] = []
        self._verdicts = list(verdicts)
        self._change = Change()

    @property
    def emails(self) -> set[str]:
        """The emails of all calls."""
        return {email_id for email_id, _ in self.asked}

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        """Return the next verdict."""
        self.asked.append((email_id, list(events)))
        self.times.append(time.monotonic())
        self._change.notify()
        return await self._applied(email_id, events)

    async def finish(self) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Settle everything from now on."""
        self._verdicts = [Verdict.SETTLED]

    async def wait_until_asked(self, times: int, timeout: float = 30.0) -> None:
        """Return after so many calls."""
        await self._change.wait_until(
            lambda: len(self.asked) >= times, timeout, lambda: f"asked {len(self.asked)} of {times} times"
        )

    async def _applied(self, _email_id: str, _events: Sequence[EngagementEvent]) -> Applied:
        return Applied(verdict=self._verdicts.pop(0) if len(self._verdicts) > 1 else self._verdicts[0])


class Watched(Verdicts):
    """Returns the verdicts of another updater."""

    def __init__(self, updater: Updater) -> None:
        super().__init__()
        self._updater = updater

    async def finish(self) -> None:
        """Let the other updater finish."""
        await self._updater.finish()

    async def _applied(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        return await self._updater.apply(email_id, events)


class Slow:
    """An updater that returns its verdict when the test lets it."""

    def __init__(self, verdict: Verdict) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self._verdict = verdict

    async def apply(self, _email_id: str, _events: Sequence[EngagementEvent]) -> Applied:
        """Return the verdict after `may_end`."""
        self.begun.set()
        await self.may_end.wait()
        return Applied(verdict=self._verdict)

    async def finish(self) -> None:
        """Do nothing."""


@asynccontextmanager
async def polling(  # noqa: PLR0913 - the choices of a test
    sqs: SqsEndpoint,
    updater: Updater,
    *,
    long_polls: int = 2,
    record_wait_seconds: float = 60,
    rebuild: Apply | None = None,
    grace_seconds: float = 0.0,
) -> AsyncIterator[Polling]:
    """Receive from the queue on the server and settle the messages."""
    queue = Queue(sqs.queue_url, os.environ, visibility_seconds=VISIBILITY_SECONDS)
    outage = StoreOutage()
    settlement = Settlement(queue, updater, outage, record_wait_seconds=record_wait_seconds, rebuild=rebuild)
    async with Receiver(queue, settlement, outage, long_polls=long_polls, grace_seconds=grace_seconds) as receiver:
        yield Polling(receiver, settlement, outage)


def of_email(email_id: str = EMAIL, sns_id: str | None = None) -> str:
    """The body of a message: a delivery of the email."""
    return ses_events.notification(ses_events.delivery(f"{GROUP}/{email_id}", AT), sns_id)


def receives(sqs: SqsEndpoint) -> list[str]:
    """For each delete, the number of the receive that returned its handle."""
    calls = [call.payload for call in sqs.requests if call.action == "DeleteMessageBatch"]
    return [entry["ReceiptHandle"].rpartition("#")[2] for payload in calls for entry in payload["Entries"]]


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The fields of an event's lines."""
    return [vars(one) for one in caplog.records if one.message == name]

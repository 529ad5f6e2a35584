# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A poller on a real queue, updaters that pass the verdicts a test wants, and what can be seen of the two."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.stack import ses_events
from tests.stack.change import Change
from tests.tracker.examples import AT, EMAIL, GROUP
from tracker.events import poller as conductor
from tracker.events.poller import Poller
from tracker.events.record_updater import Applied, Verdict
from tracker.events.sqs import Queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.poller import Updater
    from tracker.events.ses_event import EngagementEvent

LONG_AGO = 3600.0  # seconds


class Verdicts:
    """An updater that passes the given verdicts, the last one for ever, and keeps what it was asked, and when."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.asked: list[tuple[str, list[EngagementEvent]]] = []
        self.times: list[float] = []
        self._verdicts = list(verdicts)
        self._change = Change()

    @property
    def emails(self) -> set[str]:
        """The emails it was asked for."""
        return {email_id for email_id, _ in self.asked}

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        """Pass the next verdict."""
        self.asked.append((email_id, list(events)))
        self.times.append(time.monotonic())
        self._change.notify()
        return await self._pass(email_id, events)

    def settle(self) -> None:
        """Settle everything from now on."""
        self._verdicts = [Verdict.SETTLED]

    async def wait_until_asked(self, times: int, timeout: float = 10) -> None:
        """Return when it was asked so many times."""
        await self._change.wait_until(
            lambda: len(self.asked) >= times, timeout, lambda: f"asked {len(self.asked)} of {times} times"
        )

    async def _pass(self, _email_id: str, _events: Sequence[EngagementEvent]) -> Applied:
        return Applied(verdict=self._verdicts.pop(0) if len(self._verdicts) > 1 else self._verdicts[0])


class Watched(Verdicts):
    """Passes the verdicts of another updater."""

    def __init__(self, updater: Updater) -> None:
        super().__init__()
        self._updater = updater

    async def _pass(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        return await self._updater.apply(email_id, events)


class Slow:
    """An updater whose verdict is waited for."""

    def __init__(self, verdict: Verdict) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self._verdict = verdict

    async def apply(self, _email_id: str, _events: Sequence[EngagementEvent]) -> Applied:
        """Pass the verdict when it is time."""
        self.begun.set()
        await self.may_end.wait()
        return Applied(verdict=self._verdict)


@asynccontextmanager
async def polling(
    sqs: SqsEndpoint, updater: Updater, *, receivers: int = 2, record_wait_seconds: float = 60
) -> AsyncIterator[Poller]:
    """A poller of the queue on the server."""
    queue = Queue(sqs.queue_url, os.environ, visibility_seconds=conductor.VISIBILITY_SECONDS)
    async with Poller(queue, updater, receivers=receivers, record_wait_seconds=record_wait_seconds) as poller:
        yield poller


def of_email(email_id: str = EMAIL, sns_id: str | None = None) -> str:
    """The body of a message: a delivery of the email."""
    return ses_events.notification(ses_events.delivery(f"{GROUP}/{email_id}", AT), sns_id)


def receives(sqs: SqsEndpoint) -> list[str]:
    """For each delete, the number of the receive that its handle is of."""
    calls = [call.payload for call in sqs.requests if call.action == "DeleteMessageBatch"]
    return [entry["ReceiptHandle"].rpartition("#")[2] for payload in calls for entry in payload["Entries"]]


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The fields of an event's lines."""
    return [vars(one) for one in caplog.records if one.message == name]

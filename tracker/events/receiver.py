# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Receives messages in long polls and hands each batch to the settlement.

Several tasks poll. All but the first one poll only while messages arrive, and none while KV is away. If they do not
poll for another reason, the receiver fails: queries are answered and /readyz is 200 also without events.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol, Self

from shared.service.tasks import Tasks
from shared.telemetry.histogram import AGES_SECONDS, MESSAGES, Histogram
from tracker.errors import QueueUnavailable
from tracker.events.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker.events.sqs import Message, Queue
    from tracker.events.store_outage import StoreOutage

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 3
BACKOFF: Final = Backoff(first_seconds=1.0, longest_seconds=30.0)
BATCHES_AT_ONCE: Final = 1  # that are settled while all tasks wait in long polls
WATCHES: Final = 12  # of polling, within SILENT_SECONDS
SILENT_SECONDS: Final = 120.0  # without a poll: the longest regular time is a failed poll and a pause
LAST_POLL_SECONDS: Final = 1.2  # how long a stop waits for long polls: the messages that they return are released


class Settles(Protocol):
    """Applies the events of a batch, and deletes, holds or releases its messages."""

    async def settle(self, messages: Sequence[Message]) -> None: ...  # noqa: D102

    async def stop(self) -> None: ...  # noqa: D102


class Receiver:
    """Receives while its context is open, or until `failed` is set: after three failures in a row, or without polls."""

    def __init__(
        self, queue: Queue, settlement: Settles, outage: StoreOutage, *, long_polls: int, grace_seconds: float = 0.0
    ) -> None:
        """Receive with up to `long_polls` calls at once, and hand the messages to `settlement`.

        A stop that is cancelled leaves the batches that are being settled `grace_seconds` more.
        """
        self._queue = queue
        self._settlement = settlement
        self._outage = outage
        self._long_polls = long_polls
        self._grace_seconds = grace_seconds
        self.failed = asyncio.Event()
        self._failures = 0
        self._stopping = asyncio.Event()
        self._is_busy = asyncio.Event()
        self._slots = asyncio.Semaphore(long_polls + BATCHES_AT_ONCE)
        self._polls = 0
        self._polling = Tasks()
        self._watching = Tasks()
        self._settling = Tasks()
        self.receives: Counter[str] = Counter()
        self.batch_sizes = Histogram(MESSAGES)
        self.ages = Histogram(AGES_SECONDS)

    async def __aenter__(self) -> Self:
        """Start the tasks that poll."""
        for number in range(self._long_polls):
            self._polling.start(self._poll(is_first=number == 0), at_end=self._end_polling)
        self._watching.start(self._watch(), at_end=self._end_polling)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Begin no poll, let the settlement finish, and release the messages of the last polls.

        The settlement stops before the last polls are abandoned: one of them may receive the messages that the
        settlement releases, and then they have to be released once more.
        """
        self._stopping.set()
        self._watching.cancel()
        self._is_busy.set()  # this and the next line end the tasks that wait for their turn
        self._outage.is_over.set()
        try:
            await self._settlement.stop()
            await self._settling.wait(grace_seconds=self._grace_seconds)
            await self._polling.wait(LAST_POLL_SECONDS)
        finally:
            self._polling.cancel()
            await self._settling.end(self._grace_seconds)

    def _end_polling(self) -> None:
        """Fail if a task ended that should poll, or watch, as long as the context is open."""
        self._fail("a task that polls has ended")

    async def _watch(self) -> None:
        """Fail if for SILENT_SECONDS nothing was polled, and nothing was refused by KV, which would be the reason.

        It looks often, so that a time in which the whole process was suspended hardly counts.
        """
        silent, seen = 0, (0, 0)
        while silent < WATCHES:
            await asyncio.sleep(SILENT_SECONDS / WATCHES)
            now = self._polls, self._outage.reports
            silent, seen = silent + 1 if now == seen else 0, now
        self._fail(f"no poll for {SILENT_SECONDS:g} s")

    def _fail(self, why: str) -> None:
        if self._stopping.is_set() or self.failed.is_set():
            return
        log.error("queue.not_polled", extra={"error": why, "batches": len(self._settling)})
        self.failed.set()

    async def _poll(self, *, is_first: bool) -> None:
        while True:
            await self._outage.is_over.wait()
            if not is_first:
                await self._is_busy.wait()
            async with self._slots:  # batches that are being settled hold a slot each
                if self._stopping.is_set() or self.failed.is_set():
                    return
                messages = await self._receive()
            if self._stopping.is_set():
                await self._queue.change_visibility(messages, 0)
            elif messages:
                self._settling.start(self._hand_over(messages))

    async def _hand_over(self, messages: Sequence[Message]) -> None:
        async with self._slots:
            await self._settlement.settle(messages)

    async def _receive(self) -> list[Message]:
        known_failures = self._failures
        self._polls += 1
        try:
            messages = await self._queue.receive()
        except Exception as error:  # noqa: BLE001 - of any kind: polling goes on, or ends the process
            await self._back_off(error, known_failures)
            return []
        self._failures = 0
        self.receives["messages" if messages else "empty"] += 1
        if not messages:
            self._is_busy.clear()
            return []
        self._is_busy.set()
        self.batch_sizes.observe(len(messages))
        now = datetime.now(UTC)
        for message in messages:
            self.ages.observe(max(0.0, (now - message.sent_at).total_seconds()))
        return messages

    async def _back_off(self, error: Exception, known_failures: int) -> None:
        if self._failures <= known_failures:  # else another task has counted the same outage
            self._failures += 1
        self.receives["failed"] += 1
        self._is_busy.clear()
        foreign = None if isinstance(error, QueueUnavailable) else error
        extra = {"failures": self._failures, "error": str(error) or repr(error)}
        log.warning("queue.receive_failed", extra=extra, exc_info=foreign)
        if self._failures >= MAX_FAILURES:
            log.error("queue.given_up", extra={"failures": self._failures})
            self.failed.set()
            return
        await asyncio.sleep(BACKOFF.seconds(self._failures))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Receives events, hands them on, deletes what is settled; the only conductor of events.

A message is received once: whatever cannot be settled yet is held in hand, its visibility extended, so that waiting
does not drive it into the dead-letter queue. Three receive failures in a row end it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from shared.service.log import RateLimit
from shared.service.tasks import Tasks
from shared.telemetry.histogram import AGES_SECONDS, MESSAGES, Histogram
from shared.telemetry.spans import NO_SPANS
from tracker.errors import QueueUnavailable
from tracker.events import ses_event
from tracker.events.record_updater import Verdict
from tracker.events.ses_event import EngagementEvent, Ignored
from tracker.events.store_outage import StoreOutage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.telemetry.spans import Spans
    from tracker.events.record_updater import Applied
    from tracker.events.sqs import Message

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 3
LONGEST_BACKOFF_SECONDS: Final = 30.0
BATCHES_AT_ONCE: Final = 1  # that are applied while every receiver waits in a long poll
MAX_HELD: Final = 2000
VISIBILITY_SECONDS: Final = 60
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
LAST_POLL_SECONDS: Final = 1.2  # how long a stop waits for a long poll: what it still receives is released


class MessageQueue(Protocol):
    """The face of the queue that the poller needs."""

    async def receive(self) -> list[Message]: ...  # noqa: D102

    async def delete(self, messages: Sequence[Message]) -> None: ...  # noqa: D102

    async def change_visibility(self, messages: Sequence[Message], seconds: int) -> None: ...  # noqa: D102


class Updater(Protocol):
    """Applies the events of one email."""

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied: ...  # noqa: D102


class _Pair(NamedTuple):
    message: Message
    event: EngagementEvent


class Poller:
    """Polls as long as its context is open, or until `failed` is set."""

    def __init__(
        self,
        queue: MessageQueue,
        updater: Updater,
        *,
        receivers: int,
        record_wait_seconds: float,
        spans: Spans = NO_SPANS,
    ) -> None:
        """Poll with up to `receivers` calls at once; wait for a missing record until a message is so old."""
        self._queue = queue
        self._updater = updater
        self._spans = spans
        self._receivers = receivers
        self._record_wait_seconds = record_wait_seconds
        self.failed = asyncio.Event()
        self._failures = 0
        self._stopping = asyncio.Event()
        self._is_busy = asyncio.Event()
        self.outage = StoreOutage()
        self._places = asyncio.Semaphore(receivers + BATCHES_AT_ONCE)
        self._polling = Tasks()
        self._applying = Tasks()
        self._holding = Tasks()
        self._held: dict[str, Message] = {}
        self._ignored = RateLimit(lines=20, seconds=10)
        self.receives: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter({("none", "malformed"): 0})  # the first is an increase
        self.batches = Histogram(MESSAGES)
        self.ages = Histogram(AGES_SECONDS)

    @property
    def held(self) -> int:
        """How many messages wait in hand."""
        return len(self._held)

    async def __aenter__(self) -> Self:
        """Start to poll."""
        for number in range(self._receivers):
            self._polling.start(self._poll(is_first=number == 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Receive no more, apply what came, release what is held and what a last poll brings."""
        self._stopping.set()
        self._is_busy.set()
        self.outage.is_over.set()
        self._holding.cancel()
        await self._queue.change_visibility(list(self._held.values()), 0)
        await self._applying.wait()  # a last poll may bring what this releases; it is then released once more
        await self._polling.wait(LAST_POLL_SECONDS)
        self._polling.cancel()

    async def _poll(self, *, is_first: bool) -> None:
        while not self._stopping.is_set() and not self.failed.is_set():
            await self.outage.is_over.wait()
            if not is_first:
                await self._is_busy.wait()
            if self._stopping.is_set():
                return
            async with self._places:  # batches that are being applied hold a place each
                messages = await self._receive()
            if self._stopping.is_set():
                await self._queue.change_visibility(messages, 0)
            elif messages:
                self._applying.start(self._settle(messages))

    async def _receive(self) -> list[Message]:
        known_failures = self._failures
        try:
            messages = await self._queue.receive()
        except QueueUnavailable as error:
            await self._back_off(error, known_failures)
            return []
        self._failures = 0
        self.receives["messages" if messages else "empty"] += 1
        if messages:
            self.batches.observe(len(messages))
            self._is_busy.set()
        else:
            self._is_busy.clear()
        return messages

    async def _back_off(self, error: QueueUnavailable, known_failures: int) -> None:
        if self._failures <= known_failures:  # else another receiver has counted the same outage
            self._failures += 1
        self.receives["failed"] += 1
        self._is_busy.clear()
        log.warning("queue.receive_failed", extra={"failures": self._failures, "error": str(error)})
        if self._failures >= MAX_FAILURES:
            log.error("queue.given_up", extra={"failures": self._failures})
            self.failed.set()
            return
        await asyncio.sleep(min(2.0 ** (self._failures - 1), LONGEST_BACKOFF_SECONDS) * random.uniform(0.8, 1.2))  # noqa: S311

    async def _settle(self, messages: Sequence[Message]) -> None:
        settled: list[Message] = []
        by_email: dict[str, list[_Pair]] = {}
        for message in messages:
            self.ages.observe(max(0.0, (datetime.now(UTC) - message.sent_at).total_seconds()))
            event = ses_event.parse(message.body, message_id=message.message_id, received_at=message.sent_at)
            if isinstance(event, Ignored):
                self._report_ignored(message, event)
                settled.append(message)
            else:
                by_email.setdefault(event.email_id, []).append(_Pair(message, event))
        async with self._places:
            for done in await asyncio.gather(*map(self._apply_or_hold, by_email.values())):
                settled += done
            await self._queue.delete(settled)

    def _report_ignored(self, message: Message, ignored: Ignored) -> None:
        self.outcomes["none", "ignored" if ignored.is_expected else "malformed"] += 1
        level = logging.INFO if ignored.is_expected else logging.WARNING
        fields = self._ignored.allows()
        if fields is not None:
            extra = {"message_id": message.message_id, "reason": ignored.reason, **fields}
            log.log(level, "event.ignored", extra=extra)

    async def _apply_or_hold(self, pairs: list[_Pair]) -> list[Message]:
        """Apply the events of one email; return the messages to delete, and hold those that have to wait."""
        verdict = await self._apply(pairs)
        settled, waiting = self._sorted(pairs, verdict)
        if waiting and self._stopping.is_set():
            await self._queue.change_visibility([pair.message for pair in waiting], 0)
        elif waiting and verdict is not Verdict.AGAIN and len(self._held) >= MAX_HELD:
            await self._queue.change_visibility([pair.message for pair in waiting], int(self._record_wait_seconds))
        elif waiting:
            self._held.update((pair.message.receipt_handle, pair.message) for pair in waiting)
            self._holding.start(self._hold(waiting))
        return settled

    async def _apply(self, pairs: Sequence[_Pair]) -> Verdict:
        email_id, events = pairs[0].event.email_id, [pair.event for pair in pairs]
        attributes = {
            "messaging.system": "aws_sqs",
            "lfx.email_id": email_id,
            "lfx.event_kinds": [event.kind for event in events],
        }
        links = dict.fromkeys(event.traceparent for event in events if event.traceparent)
        with self._spans.start("apply events", "consumer", attributes, links=links) as span:
            verdict = (await self._updater.apply(email_id, events)).verdict
            if verdict not in {Verdict.SETTLED, Verdict.UNMATCHED}:
                span.fail(verdict.name.lower())
        if verdict is Verdict.AGAIN:
            self.outage.begin()
        else:
            self.outage.end()
        return verdict

    def _sorted(self, pairs: Sequence[_Pair], verdict: Verdict) -> tuple[list[Message], list[_Pair]]:
        """Return what to delete and what to hold."""
        if verdict is Verdict.SETTLED:
            return [pair.message for pair in pairs], []
        if verdict is Verdict.STUCK:
            return [], []
        if verdict is not Verdict.UNMATCHED:
            return [], list(pairs)
        old = [pair for pair in pairs if self._waited_seconds(pair) >= self._record_wait_seconds]
        for pair in old:
            event = pair.event
            self.outcomes[event.kind, "unmatched"] += 1
            log.info(
                "event.unmatched", extra={"email_id": event.email_id, "kind": event.kind, "event_id": event.event_id}
            )
        return [pair.message for pair in old], [pair for pair in pairs if pair not in old]

    async def _hold(self, waiting: list[_Pair]) -> None:
        """Try again until each message is settled or stuck, extending its visibility meanwhile."""
        messages = [pair.message for pair in waiting]
        pause = FIRST_PAUSE_SECONDS
        extend_at = _now() + VISIBILITY_SECONDS / 2
        try:
            while waiting:
                left = self._record_wait_seconds - min(map(self._waited_seconds, waiting))
                wait = min(pause, max(0.05, left)) if left > 0 else pause  # what is older waits for the store
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                if _now() >= extend_at:
                    await self._queue.change_visibility([pair.message for pair in waiting], VISIBILITY_SECONDS)
                    extend_at = _now() + VISIBILITY_SECONDS / 2
                settled, waiting = self._sorted(waiting, await self._apply(waiting))
                self._let_go(settled)
                await self._queue.delete(settled)
        finally:
            self._let_go(messages)  # what is stuck too, or met an error: it comes again by itself

    def _waited_seconds(self, pair: _Pair) -> float:
        return self.outage.waited_seconds(pair.message.sent_at)

    def _let_go(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._held.pop(message.receipt_handle, None)


def _now() -> float:
    return asyncio.get_running_loop().time()

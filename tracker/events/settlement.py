# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Settles received messages: applies their events, then deletes, holds or releases the messages.

A message is received once. A message that cannot be settled yet is held and its visibility is extended, so that waiting
does not move it into the dead-letter queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from shared.service.log import RateLimit
from shared.service.tasks import Tasks
from shared.telemetry.spans import NO_SPANS
from tracker.events import ses_event
from tracker.events.backoff import Backoff
from tracker.events.record_updater import Verdict
from tracker.events.ses_event import EngagementEvent, Ignored, Several

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.telemetry.spans import Attributes, Spans
    from tracker.events.record_updater import Applied
    from tracker.events.sqs import Message, Queue
    from tracker.events.store_outage import StoreOutage

log = logging.getLogger(__name__)

MAX_HELD: Final = 2000
VISIBILITY_SECONDS: Final = 60
LONGEST_VISIBILITY_SECONDS: Final = 43_000  # SQS allows 12 hours from the receive
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
SHORTEST_PAUSE_SECONDS: Final = 0.05
BACKOFF: Final = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)


class Apply(Protocol):
    """Applies the events of one email."""

    async def __call__(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied: ...  # noqa: D102


class Updater(Protocol):
    """Applies the events of one email."""

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied: ...  # noqa: D102

    async def finish(self) -> None: ...  # noqa: D102


class _Received(NamedTuple):
    message: Message
    event: EngagementEvent


class Settlement:
    """Settles batches until `stop` releases the messages that are held."""

    def __init__(  # noqa: PLR0913 - three parts and three options
        self,
        queue: Queue,
        updater: Updater,
        outage: StoreOutage,
        *,
        record_wait_seconds: float,
        rebuild: Apply | None = None,
        spans: Spans = NO_SPANS,
    ) -> None:
        """Apply events with `updater`; wait for a missing record until the message has the given age.

        Then `rebuild` makes it and applies the events; without `rebuild` they are skipped.
        """
        self._queue = queue
        self._updater = updater
        self._outage = outage
        self._record_wait_seconds = record_wait_seconds
        self._rebuild = rebuild
        self._spans = spans
        self._is_stopping = False
        self._held: dict[str, Message] = {}
        self._holding = Tasks()
        self._failing: set[str] = set()  # emails whose error is logged already
        self._ignored_lines = RateLimit(lines=20, seconds=10)
        self.outcomes: Counter[tuple[str, str]] = Counter({("none", "malformed"): 0})  # Prometheus sees the first one

    @property
    def held(self) -> int:
        """How many messages are held."""
        return len(self._held)

    async def settle(self, messages: Sequence[Message]) -> None:
        """Apply the events of a batch, those of one email together, and delete the messages that are settled."""
        settled: list[Message] = []
        by_email: dict[str, list[_Received]] = {}
        for message in messages:
            event = _parse(message)
            if event is None:
                continue
            if isinstance(event, Several):
                settled += await self._settle_several(message, event)
            elif isinstance(event, Ignored):
                self._report_ignored(message, event)
                settled.append(message)
            else:
                by_email.setdefault(event.email_id, []).append(_Received(message, event))
        applying = map(self._apply_or_hold, by_email.values())
        results = await asyncio.gather(*applying, return_exceptions=True)
        for result in results:
            if isinstance(result, list):
                settled += result
        await self._queue.delete(settled)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _settle_several(self, message: Message, several: Several) -> list[Message]:
        """Apply each event of a message; return it if all are settled, else the queue delivers it again.

        It is not held: such a message is rare, and events that are applied already change nothing.
        """
        is_settled, has_to_wait = True, False
        for event in several.flat():
            if isinstance(event, Ignored):
                self._report_ignored(message, event)
                continue
            settled, waiting = await self._apply([_Received(message, event)])
            is_settled = is_settled and bool(settled)
            has_to_wait = has_to_wait or bool(waiting)
            if not self._outage.is_over.is_set():
                break
        self._end_outages_unless_held()
        if has_to_wait:
            await self._leave_to_the_queue([message])
        return [message] if is_settled else []

    async def stop(self) -> None:
        """Release the messages that are held. From now on, messages are released instead of held.

        Before that, the updater looks which of its unanswered writes were stored. Another tracker that got the messages
        would write to the same records, and hide this.
        """
        self._is_stopping = True
        held = list(self._held.values())
        self._holding.cancel()
        await self._holding.wait()
        await self._updater.finish()
        await self._queue.change_visibility(held, 0)

    def _report_ignored(self, message: Message, ignored: Ignored) -> None:
        self.outcomes["none", "ignored" if ignored.is_expected else "malformed"] += 1
        level = logging.INFO if ignored.is_expected else logging.WARNING
        fields = self._ignored_lines.allows()
        if fields is not None:
            extra = {"message_id": message.message_id, "reason": ignored.reason, **fields}
            log.log(level, "event.ignored", extra=extra)

    async def _apply_or_hold(self, received: list[_Received]) -> list[Message]:
        """Apply the events of one email; return the messages to delete, and hold those that have to wait."""
        settled, waiting = await self._apply(received)
        if not waiting:
            return settled
        if self._is_stopping or self._is_full():
            self._failing.discard(waiting[0].event.email_id)
            await self._leave_to_the_queue([one.message for one in waiting])
        else:
            self._held.update((one.message.receipt_handle, one.message) for one in waiting)
            self._holding.start(self._try_again(waiting), at_end=partial(self._end_hold, waiting))
        return settled

    async def _leave_to_the_queue(self, messages: Sequence[Message]) -> None:
        """Let the queue deliver messages again: as late as their records may come, so that few receives are counted.

        It is never sooner than without this call, except for a stop: KV may be away, or a record contested, for longer
        than an operator lets events wait.
        """
        seconds = min(max(self._record_wait_seconds, VISIBILITY_SECONDS), LONGEST_VISIBILITY_SECONDS)
        await self._queue.change_visibility(messages, 0 if self._is_stopping else int(seconds))

    def _is_full(self) -> bool:
        """Return whether no more may be held; during an outage there is no limit, since nothing more is received."""
        return len(self._held) >= MAX_HELD and self._outage.is_over.is_set()

    async def _apply(self, received: list[_Received]) -> tuple[list[Message], list[_Received]]:
        """Apply the events of one email; return the messages to delete, and those that have to wait."""
        verdict = await self._verdict(received, self._updater.apply)
        if verdict is not Verdict.UNMATCHED:
            return _by_verdict(verdict, received)
        old, young = self._split_by_age(received)
        if old and self._rebuild:
            verdict = await self._verdict(old, self._rebuild)
        if verdict is Verdict.UNMATCHED:
            return self._skip(old), young
        settled, waiting = _by_verdict(verdict, old)
        return settled, waiting + young

    def _note_outages(self, verdict: Verdict) -> None:
        if verdict is Verdict.AGAIN:
            self._outage.begin()
        else:
            self._outage.end()
        if verdict is Verdict.UNPUBLISHED:
            self._outage.begin_of_stream()
        elif verdict is Verdict.SETTLED:  # the stream, if there is one, has stored its push events
            self._outage.end_of_stream()

    async def _verdict(self, received: Sequence[_Received], apply: Apply) -> Verdict:
        email_id, events = received[0].event.email_id, [one.event for one in received]
        attributes: Attributes = {
            "messaging.system": "aws_sqs",
            "lfx.email_id": email_id,
            "lfx.event_kinds": [event.kind for event in events],
        }
        links = dict.fromkeys(event.traceparent for event in events if event.traceparent)
        with self._spans.start("apply events", "consumer", attributes, links=links) as span:
            verdict = await self._apply_safely(email_id, events, apply)
            if verdict not in {Verdict.SETTLED, Verdict.UNMATCHED}:
                span.fail(verdict.name.lower())
        self._note_outages(verdict)
        return verdict

    async def _apply_safely(self, email_id: str, events: Sequence[EngagementEvent], apply: Apply) -> Verdict:
        """Apply the events; an unforeseen error means to try again, but not that KV is away.

        As an outage it would stop the polling for all other emails, permanently if the error comes from the event.
        """
        try:
            verdict = (await apply(email_id, events)).verdict
        except Exception:
            if email_id not in self._failing:
                self._failing.add(email_id)
                log.exception("event.failed", extra={"email_id": email_id, "events": len(events)})
            return Verdict.CONTESTED
        self._failing.discard(email_id)
        return verdict

    def _split_by_age(self, received: list[_Received]) -> tuple[list[_Received], list[_Received]]:
        """Return the messages that have waited long enough for their record, and those that have to wait."""
        old: list[_Received] = []
        young: list[_Received] = []
        for one in received:
            is_young = self._outage.waited_seconds(one.message.sent_on_clock) < self._record_wait_seconds
            (young if is_young else old).append(one)
        return old, young

    def _skip(self, received: list[_Received]) -> list[Message]:
        """Report events whose record is missing; return their messages, to delete them."""
        for event in (one.event for one in received):
            self.outcomes[event.kind, "unmatched"] += 1
            extra = {"email_id": event.email_id, "kind": event.kind, "event_id": event.event_id}
            log.info("event.unmatched", extra=extra)
        return [one.message for one in received]

    def _end_hold(self, waiting: list[_Received]) -> None:
        """Let go of messages, also of those that are stuck or met an error: the queue delivers them again."""
        self._let_go(one.message for one in waiting)
        self._failing.discard(waiting[0].event.email_id)
        self._end_outages_unless_held()

    def _end_outages_unless_held(self) -> None:
        if not self._held:  # only a holder notices that KV is back; without one, the next receive has to
            self._outage.end()
            self._outage.end_of_stream()

    async def _try_again(self, waiting: list[_Received]) -> None:
        """Try again until each message is settled or stuck, and extend its visibility meanwhile."""
        extend_at = time.monotonic() + VISIBILITY_SECONDS / 2
        for tries in count(1):
            await asyncio.sleep(self._pause_seconds(waiting, tries))
            if time.monotonic() >= extend_at:
                await self._queue.change_visibility([one.message for one in waiting], VISIBILITY_SECONDS)
                extend_at = time.monotonic() + VISIBILITY_SECONDS / 2
            settled, waiting = await self._apply(waiting)
            self._let_go(settled)
            await self._queue.delete(settled)
            if not waiting:
                return

    def _pause_seconds(self, waiting: Iterable[_Received], tries: int) -> float:
        """Return the pause before the next try, which is not later than the end of the wait for a record."""
        pause = BACKOFF.seconds(tries)
        waited = min(self._outage.waited_seconds(one.message.sent_on_clock) for one in waiting)
        left = self._record_wait_seconds - waited
        return min(pause, max(SHORTEST_PAUSE_SECONDS, left)) if left > 0 else pause  # an older message waits for KV

    def _let_go(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._held.pop(message.receipt_handle, None)


def _by_verdict(verdict: Verdict, received: list[_Received]) -> tuple[list[Message], list[_Received]]:
    """Return the messages to delete, and those that have to wait."""
    match verdict:
        case Verdict.SETTLED:
            return [one.message for one in received], []
        case Verdict.STUCK:
            return [], []
        case _:
            return [], received


def _parse(message: Message) -> EngagementEvent | Ignored | None:
    """Return the event, or None after an unforeseen error: the message is left to the queue and its redrive policy."""
    try:
        return ses_event.parse(message.body, message_id=message.message_id, received_at=message.sent_at)
    except Exception:
        log.exception("event.failed", extra={"message_id": message.message_id})
        return None

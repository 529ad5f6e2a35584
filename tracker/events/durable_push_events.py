# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Publishes push events into a JetStream stream and waits until it has stored them, with PUSH_EVENTS_DURABLE=true."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from shared import contract
from shared.errors import StoreUnavailable, ValueTooLarge
from shared.kv import jetstream
from shared.service.log import RateLimit
from tracker.events import push_events
from tracker.events.record_updater import Verdict
from tracker.events.stream_gate import StreamGate
from tracker.events.unanswered_writes import key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.msg import Msg

    from shared.kv.jetstream import PublishAck
    from shared.nats.inbox import Inbox
    from tracker.events.ses_event import EngagementEvent
    from tracker.events.unanswered_writes import Step

    Key = tuple[str, str, str]

log = logging.getLogger(__name__)

Outcome = Literal["published", "duplicate", "failed", "too_large"]

OUTCOMES: Final = ("published", "duplicate", "failed")
MAX_LEFT: Final = 4000  # more than the messages that are held


class DurablePushEvents:
    """Publishes the events of messages that are to be deleted; a repeat has the id of the first.

    Events that the stream has not stored are remembered, so that their next try begins here and not at the record.
    """

    def __init__(self, inbox: Inbox) -> None:
        """Publish over `inbox`, which gets the acknowledgements."""
        self._inbox = inbox
        self._gate = StreamGate(inbox, contract.PUSH_EVENTS_STREAM)
        self._left: dict[Key, Step] = {}
        self._lines = RateLimit(lines=10, seconds=10)
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def unpublished(self, events: Sequence[EngagementEvent]) -> Sequence[Step] | None:
        """Return what is left to publish of events that are in their record; None if that is not known of each."""
        if not self._left:
            return None
        steps = [self._left.get(key_of(event)) for event in events]
        known = {step.key: step for step in steps if step}
        return list(known.values()) if all(steps) else None

    async def publish(self, steps: Sequence[Step]) -> Verdict:
        """Publish all at once; return UNPUBLISHED if the stream has not stored each, STUCK if it never can."""
        steps = [step for step in steps if step.event.kind in push_events.SUBJECTS]
        outcomes = await asyncio.gather(*map(self._publish, steps))
        if "failed" in outcomes:
            self._left.update((step.key, step) for step in steps)
            while len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]
            return Verdict.UNPUBLISHED
        for step in steps:
            self._left.pop(step.key, None)
        return Verdict.STUCK if "too_large" in outcomes else Verdict.SETTLED

    async def _publish(self, step: Step) -> Outcome:
        event = step.event
        extra = {"email_id": event.email_id, "kind": event.kind, "event_id": event.event_id}
        try:
            await self._gate.wait_until_open()
            ack = await self._request(step)
        except ValueTooLarge as error:
            self.outcomes["failed"] += 1
            log.error("event.unannounced", extra={**extra, "error": str(error)})
            return "too_large"
        except StoreUnavailable as error:
            self._gate.close()
            self.outcomes["failed"] += 1
            fields = self._lines.allows()
            if fields is not None:
                log.warning("event.unacknowledged", extra={**extra, "error": str(error), **fields})
            return "failed"
        self._gate.open()
        outcome: Outcome = "duplicate" if ack.duplicate else "published"
        self.outcomes[outcome] += 1
        return outcome

    async def _request(self, step: Step) -> PublishAck:
        """Return the acknowledgement of the stream. Any other reply is ignored: subscribers see the reply subject, too.

        Raises:
            StoreUnavailable: no acknowledgement in time, or the stream refuses the message now.
            ValueTooLarge: the message is larger than the stream or the server allows.
        """
        answers: list[PublishAck] = []

        def is_answer(msg: Msg) -> bool:
            if answer := _answer_in(msg.data):
                answers.append(answer)
            return bool(answers)

        headers = {**push_events.headers(step.event), jetstream.EXPECTED_STREAM: contract.PUSH_EVENTS_STREAM}
        subject, payload = push_events.SUBJECTS[step.event.kind], push_events.payload(step.event, step.record)
        await self._inbox.collect(subject, payload, is_answer, headers)
        [answer] = answers
        if answer.error:
            message = f"stream {contract.PUSH_EVENTS_STREAM}: {answer.error.description} ({answer.error.err_code})"
            raise (ValueTooLarge if answer.error.err_code == jetstream.MESSAGE_TOO_LARGE else StoreUnavailable)(message)
        return answer


def _answer_in(data: bytes) -> PublishAck | None:
    """Return the acknowledgement or the error of the stream; None if this is something else."""
    try:
        answer = jetstream.decode_ack(data)
    except StoreUnavailable:
        return None
    return answer if answer.error or answer.stream == contract.PUSH_EVENTS_STREAM else None

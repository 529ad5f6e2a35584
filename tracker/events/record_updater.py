# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies the events of one email: to its record in one write, to the suppression list, and as push events."""

from __future__ import annotations

import enum
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shared.errors import KeyMissing, RevisionConflict, StoreError, StoreUnavailable, ValueTooLarge
from shared.telemetry.histogram import AGES_SECONDS, Histogram
from tracker.errors import RecordCorrupt, RecordFull
from tracker.events import engagement, records

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket
    from tracker.events.ses_event import EngagementEvent

    Publish = Callable[[EngagementEvent, EmailRecipientRecord], Awaitable[None]]
    """Publishes the push event for an event that changed the record; gets the record after the event."""
    Suppress = Callable[[Sequence[EngagementEvent], str], Awaitable[int]]
    """Adds the recipient of bounces and complaints to the suppression list; returns how many addresses were new.

    Gets the recipient in the record, or an empty string if there is no record that can be read.
    """

log = logging.getLogger(__name__)

LOG_EVENTS: Final = {"applied": "event.applied", "duplicate": "event.duplicate"}


class Verdict(enum.Enum):
    """What to do with the messages of the events."""

    SETTLED = enum.auto()  # delete
    UNMATCHED = enum.auto()  # the record is missing: wait for it while the events are young
    AGAIN = enum.auto()  # KV could not be read or written: try again without limit
    CONTESTED = enum.auto()  # others kept changing the record, or the suppression list failed: try again
    STUCK = enum.auto()  # the record cannot be read: leave the messages to the queue and its redrive policy


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The result for the events of one email.

    `new` events changed the record, `duplicates` did not. `suppressed` counts the addresses that were added to the
    suppression list. `error` is the reason why a settled event changed nothing. `to` is the recipient in the record.
    """

    verdict: Verdict
    new: int = 0
    duplicates: int = 0
    suppressed: int = 0
    error: str = ""
    to: str = ""


class _Step(NamedTuple):
    event: EngagementEvent
    record: EmailRecipientRecord


async def suppress_nobody(_events: Sequence[EngagementEvent], _to: str) -> int:
    """Add nothing to the suppression list, with SUPPRESSION_ENABLED=false."""
    return 0


class RecordUpdater:
    """Writes events into the recipients bucket, adds to the suppression list, publishes push events."""

    def __init__(self, recipients: Bucket, publish: Publish, suppress: Suppress = suppress_nobody) -> None:
        """Write to `recipients`, then call `publish` and `suppress`."""
        self._recipients = recipients
        self._publish = publish
        self._suppress = suppress
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.permanent_bounces = 0
        self.lags = Histogram(AGES_SECONDS)

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        """Apply events of one email, in any order; they are settled when the suppression list is written, too."""
        applied = await self._update(email_id, events)
        if applied.verdict in {Verdict.AGAIN, Verdict.CONTESTED}:
            return applied  # the caller tries again
        try:
            suppressed = await self._suppress(events, applied.to)
        except StoreError as error:
            log.warning("suppression.postponed", extra={"email_id": email_id, "error": str(error)})
            return msgspec.structs.replace(applied, verdict=Verdict.CONTESTED)
        return msgspec.structs.replace(applied, suppressed=suppressed)

    async def _update(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        to = ""
        try:
            max_bytes = await self._recipients.max_value_bytes()

            def change(value: bytes) -> tuple[bytes | None, list[_Step]]:
                nonlocal to
                record = records.decode(value)
                to, steps = record.to, _steps(record, events)
                return records.rewrite(value, steps[-1].record, max_bytes) if steps else None, steps

            steps = await self._recipients.rewrite(email_id, change)
        except KeyMissing:
            return Applied(verdict=Verdict.UNMATCHED)
        except (StoreUnavailable, RevisionConflict, ValueTooLarge) as error:  # too large: the limit has changed
            log.warning("event.postponed", extra={"email_id": email_id, "events": len(events), "error": str(error)})
            return Applied(verdict=Verdict.AGAIN if isinstance(error, StoreUnavailable) else Verdict.CONTESTED)
        except RecordCorrupt as error:
            log.error("record.corrupt", extra={"email_id": email_id, "error": str(error)})
            return Applied(verdict=Verdict.STUCK, error="the record cannot be read")
        except RecordFull:
            log.error("record.full", extra={"email_id": email_id, "events": len(events)})
            return Applied(verdict=Verdict.SETTLED, error="the record is full", to=to)
        await self._report(events, steps)
        return Applied(verdict=Verdict.SETTLED, new=len(steps), duplicates=len(events) - len(steps), to=to)

    async def _report(self, events: Sequence[EngagementEvent], steps: Sequence[_Step]) -> None:
        new = {id(step.event) for step in steps}
        now = datetime.now(UTC)
        for event in events:
            outcome = "applied" if id(event) in new else "duplicate"
            self.outcomes[event.kind, outcome] += 1
            self.lags.observe(max(0.0, (now - event.at).total_seconds()))
            extra = {"email_id": event.email_id, "kind": event.kind, "event_id": event.event_id}
            log.info(LOG_EVENTS[outcome], extra=extra)
        for step in steps:
            self.permanent_bounces += step.event.is_permanent_bounce
            await self._publish(step.event, step.record)


def _steps(record: EmailRecipientRecord, events: Sequence[EngagementEvent]) -> list[_Step]:
    """Return each event that changes the record, with the record after the event."""
    steps = []
    for event in events:
        after = engagement.apply(record, event)
        if after is not record:
            steps.append(_Step(event, after))
            record = after
    return steps

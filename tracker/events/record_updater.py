# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies the events of one email to its record in one write, and says what is to become of their messages."""

from __future__ import annotations

import enum
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from shared.errors import KeyMissing, RevisionConflict, StoreUnavailable, ValueTooLarge
from shared.telemetry.histogram import AGES_SECONDS, Histogram
from tracker.errors import RecordCorrupt, RecordFull
from tracker.events import engagement, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket
    from tracker.events.ses_event import EngagementEvent

log = logging.getLogger(__name__)

REPORTS: Final = {"applied": "event.applied", "duplicate": "event.duplicate"}


class Verdict(enum.Enum):
    """What the poller does with the messages."""

    SETTLED = enum.auto()  # delete
    UNMATCHED = enum.auto()  # there is no record: wait for it, as long as the events are young
    AGAIN = enum.auto()  # KV could not be read or written: try again, for as long as it takes
    CONTESTED = enum.auto()  # others changed the record for as long as patience lasted: try again
    STUCK = enum.auto()  # the record cannot be read: leave the messages to the queue and its redrive policy


class Announces(Protocol):
    """The face of the announcer that the updater needs."""

    async def announce(self, event: EngagementEvent, record: EmailRecipientRecord) -> None: ...  # noqa: D102


class _Step(NamedTuple):
    event: EngagementEvent
    record: EmailRecipientRecord


class RecordUpdater:
    """Writes events into the recipients bucket and announces those that were new."""

    def __init__(self, recipients: Bucket, announcer: Announces) -> None:
        """Write to `recipients`, tell `announcer`."""
        self._recipients = recipients
        self._announcer = announcer
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.lags = Histogram(AGES_SECONDS)

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Verdict:
        """Apply events of one email, in any order."""
        steps: list[_Step] = []
        try:
            max_bytes = await self._recipients.max_value_bytes()

            def change(value: bytes) -> bytes | None:
                before = records.decode(value)
                steps[:] = _steps(before, events)
                return records.rewrite(value, steps[-1].record, max_bytes) if steps else None

            await self._recipients.rewrite(email_id, change)
        except KeyMissing:
            return Verdict.UNMATCHED
        except (StoreUnavailable, RevisionConflict, ValueTooLarge) as error:  # too large: the limit has changed
            log.warning("event.postponed", extra={"email_id": email_id, "events": len(events), "error": str(error)})
            return Verdict.AGAIN if isinstance(error, StoreUnavailable) else Verdict.CONTESTED
        except RecordCorrupt as error:
            log.error("record.corrupt", extra={"email_id": email_id, "error": str(error)})
            return Verdict.STUCK
        except RecordFull:
            log.error("record.full", extra={"email_id": email_id, "events": len(events)})
            return Verdict.SETTLED
        await self._report(events, steps)
        return Verdict.SETTLED

    async def _report(self, events: Sequence[EngagementEvent], steps: Sequence[_Step]) -> None:
        applied = {id(step.event) for step in steps}
        now = datetime.now(UTC)
        for event in events:
            outcome = "applied" if id(event) in applied else "duplicate"
            self.outcomes[event.kind, outcome] += 1
            self.lags.observe(max(0.0, (now - event.at).total_seconds()))
            extra = {"email_id": event.email_id, "kind": event.kind, "event_id": event.event_id}
            log.info(REPORTS[outcome], extra=extra)
        for step in steps:
            await self._announcer.announce(step.event, step.record)


def _steps(record: EmailRecipientRecord, events: Sequence[EngagementEvent]) -> list[_Step]:
    """Return each event that said something new, with the record as it left it."""
    steps = []
    for event in events:
        after = engagement.apply(record, event)
        if after is not record:
            steps.append(_Step(event, after))
            record = after
    return steps

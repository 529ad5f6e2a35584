# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies the events of one email: to its record in one write, to the suppression list, and as push events."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import Counter, deque
from contextlib import suppress as suppress_error
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

import msgspec

from shared.errors import KeyMissing, RevisionConflict, StoreError, StoreUnavailable, ValueTooLarge
from shared.telemetry.histogram import AGES_SECONDS, Histogram
from tracker.errors import RecordCorrupt, RecordFull, Stopping
from tracker.events import records
from tracker.events.record_update import RecordUpdate
from tracker.events.unanswered_writes import Step, UnansweredWrites

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket, Entry
    from tracker.events.ses_event import EngagementEvent

    Publish = Callable[[EngagementEvent, EmailRecipientRecord], Awaitable[None]]
    """Publishes the push event for an event that changed the record; gets the record after the event."""
    Suppress = Callable[[Sequence[EngagementEvent], str], Awaitable[int]]
    """Adds the recipient of bounces and complaints to the suppression list; returns how many addresses were new.

    Gets the recipient in the record, or an empty string if there is no record that can be read.
    """
    AddToGroup = Callable[[EmailRecipientRecord], Awaitable[None]]
    """Puts the email of a rebuilt record into its group, and notes that in the record."""

log = logging.getLogger(__name__)

LOG_EVENTS: Final = {"applied": "event.applied", "duplicate": "event.duplicate"}
FINISH_SECONDS: Final = 0.5  # how long a stop looks whether unanswered writes were stored
LOOK_AGAIN_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 10.0  # longer than the pauses between the tries of a message that is held
READS_AT_ONCE: Final = 64


class Verdict(enum.Enum):
    """What to do with the messages of the events."""

    SETTLED = enum.auto()  # delete
    UNMATCHED = enum.auto()  # the record is missing: wait for it while the events are young
    AGAIN = enum.auto()  # KV could not be read or written: try again without limit
    UNPUBLISHED = enum.auto()  # the stream has not acknowledged a push event: try again without limit
    CONTESTED = enum.auto()  # others kept changing the record, or the suppression list failed: try again
    STUCK = enum.auto()  # the record cannot be read: leave the messages to the queue and its redrive policy


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The result for the events of one email.

    `new` events changed the record, `duplicates` did not. `suppressed` counts the addresses that were added to the
    suppression list. `rebuilt`: the record was missing. `error` is the reason why the events changed nothing.
    `record` is the record before the events.
    """

    verdict: Verdict
    new: int = 0
    duplicates: int = 0
    suppressed: int = 0
    rebuilt: bool = False
    error: str = ""
    record: EmailRecipientRecord | None = None


class Confirms(Protocol):
    """Publishes the events of messages that are to be deleted, and waits until a stream has stored each."""

    def unpublished(self, events: Sequence[EngagementEvent]) -> Sequence[Step] | None:
        """Return what is left to publish of events that are in their record; None if that is not known of each."""

    async def publish(self, steps: Sequence[Step]) -> Verdict:
        """Publish events, new ones and duplicates; return SETTLED if the stream has stored each."""


async def suppress_nobody(_events: Sequence[EngagementEvent], _to: str) -> int:
    """Add nothing to the suppression list, with SUPPRESSION_ENABLED=false."""
    return 0


class RecordUpdater:
    """Writes events into the recipients bucket, adds to the suppression list, publishes push events.

    `publish` gets each new event after the write. If the answer to the write is lost, it gets them when a later read
    shows that the write was stored, at the latest in `finish`. `confirm` gets all events of a message, also duplicates.
    """

    def __init__(
        self,
        recipients: Bucket,
        publish: Publish,
        suppress: Suppress = suppress_nobody,
        confirm: Confirms | None = None,
        group: AddToGroup | None = None,
    ) -> None:
        """Write to `recipients`, then call `publish`, `group`, `suppress` and `confirm`."""
        self._recipients = recipients
        self._publish = publish
        self._suppress = suppress
        self._confirm = confirm
        self._group = group
        self._name = uuid4().hex[:8]
        self._numbers = count(1)
        self._unanswered = UnansweredWrites()
        self._unpublished: deque[Step] = deque()
        self._may_write = True
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.permanent_bounces = 0
        self.lags = Histogram(AGES_SECONDS)

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        """Apply events of one email, in any order; return SETTLED when their messages may be deleted."""
        if self._confirm and (unpublished := self._confirm.unpublished(events)) is not None:
            return Applied(verdict=await self._confirm.publish(unpublished), duplicates=len(events))
        update = RecordUpdate(email_id, events, f"{self._name}-{next(self._numbers)}", self._unanswered)
        applied = await self._update(update)
        await self._publish_new()
        if applied.verdict in {Verdict.AGAIN, Verdict.CONTESTED}:
            return applied  # the caller tries again
        if self._group and update.record and update.is_ungrouped:
            try:
                await self._group(update.record)
            except StoreError as error:
                return postponed(email_id, events, error)
        try:
            suppressed = await self._suppress(events, update.to if applied.record else "")
        except StoreError as error:
            log.warning("suppression.postponed", extra={"email_id": email_id, "error": str(error)})
            return msgspec.structs.replace(applied, verdict=Verdict.CONTESTED)
        applied = msgspec.structs.replace(applied, suppressed=suppressed)
        if self._confirm and applied.verdict is Verdict.SETTLED:
            applied = msgspec.structs.replace(applied, verdict=await self._confirm.publish(update.all_steps()))
        return applied

    async def watch(self) -> None:
        """Look at the records of writes that stay unanswered, and publish the events of those that were stored.

        Such an event is not tried again here: its message was left to the queue, and another tracker that gets it finds
        it in the record.
        """
        before: set[str] = set()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self._look_at_unanswered([one for one in self._unanswered.email_ids if one in before])
            except Exception:  # it would end the watch for all emails
                log.exception("event.failed")
            before = set(self._unanswered.email_ids)

    def end_writes(self) -> None:
        """Begin no further write: only those that are under way get their answer before the process ends."""
        self._may_write = False

    async def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Publish the events that are known to be new, also those of unanswered writes that were stored.

        It looks at the records until each write is decided, or the time is over.
        """
        with suppress_error(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._publish_new()
                while self._unanswered:
                    await self._look_at_unanswered(self._unanswered.email_ids)
                    if self._unanswered:
                        await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def close(self, seconds: float) -> None:
        """Finish, and publish also the events of writes that were cut off: most likely they are stored.

        If one is not, another tracker gets the event and publishes it with the same id.
        """
        try:
            await self.finish(seconds)
        finally:
            self._note_new(self._unanswered.cut_off())
            await self._publish_new()
            if self._unanswered:
                log.warning("event.unannounced", extra={"emails": len(self._unanswered), "error": "KV did not answer"})

    async def _update(self, update: RecordUpdate) -> Applied:
        email_id, events = update.email_id, update.events
        try:
            await self._write(update)
        except Stopping:
            return Applied(verdict=Verdict.CONTESTED)
        except KeyMissing:
            self._unanswered.forget(email_id)
            return Applied(verdict=Verdict.UNMATCHED)
        except (StoreUnavailable, RevisionConflict, ValueTooLarge) as error:  # too large: the limit has changed
            return postponed(email_id, events, error)
        except RecordCorrupt as error:
            log.error("record.corrupt", extra={"email_id": email_id, "error": str(error)})
            return Applied(verdict=Verdict.STUCK, error="the record cannot be read")
        except RecordFull:
            log.error("record.full", extra={"email_id": email_id, "events": len(events)})
            return Applied(verdict=Verdict.SETTLED, error="the record is full", record=update.record)
        duplicates = update.duplicates()
        self._note_new(update.steps)
        for event in duplicates:
            self._report(event, "duplicate")
        new = len(events) - len(duplicates)
        return Applied(verdict=Verdict.SETTLED, new=new, duplicates=len(duplicates), record=update.record)

    async def _write(self, update: RecordUpdate) -> None:
        """Write the record, and remember a write whose outcome is unknown: without an answer, or cancelled."""
        update.max_bytes = await self._recipients.max_value_bytes()

        def read(entry: Entry) -> None:
            update.read(entry)
            if not self._may_write:
                raise Stopping

        self._unanswered.begin(update.email_id)
        try:
            await self._recipients.rewrite(update.email_id, update.change, on_read=read, write_id=update.write_id)
            if update.steps:
                self._unanswered.replaced(update.email_id, update.revision, update.write_id)
        except (KeyMissing, RevisionConflict, ValueTooLarge, RecordCorrupt, RecordFull, Stopping):
            raise  # nothing was written
        except BaseException as error:
            write = update.write(is_cut_off=isinstance(error, asyncio.CancelledError))
            if write and not self._confirm:  # `confirm` publishes it anyway at the next try
                self._unanswered.add(update.email_id, write)
            raise
        finally:
            self._note_new(update.stored)
            self._unanswered.end(update.email_id)

    async def _look_at_unanswered(self, email_ids: Sequence[str]) -> None:
        for start in range(0, len(email_ids), READS_AT_ONCE):
            await asyncio.gather(*map(self._look_at, email_ids[start : start + READS_AT_ONCE]))
        await self._publish_new()

    async def _look_at(self, email_id: str) -> None:
        try:
            entry = await self._recipients.get_from_leader(email_id)
            self._note_new(self._unanswered.decide(email_id, entry, records.decode(entry.value)))
        except (KeyMissing, RecordCorrupt):
            self._unanswered.forget(email_id)
        except StoreError:
            return  # it is read again while there is time

    def _note_new(self, steps: Sequence[Step]) -> None:
        """Report events that are in their record, and leave them to `_publish_new`, even if this task is cancelled."""
        for step in steps:
            self._report(step.event, "applied")
            self.permanent_bounces += step.event.is_permanent_bounce
        self._unpublished.extend(steps)

    async def _publish_new(self) -> None:
        while self._unpublished:
            step = self._unpublished.popleft()
            await self._publish(step.event, step.record)

    def _report(self, event: EngagementEvent, outcome: str) -> None:
        self.outcomes[event.kind, outcome] += 1
        self.lags.observe(max(0.0, (datetime.now(UTC) - event.at).total_seconds()))
        extra = {"email_id": event.email_id, "kind": event.kind, "event_id": event.event_id}
        log.info(LOG_EVENTS[outcome], extra=extra)


def postponed(email_id: str, events: Sequence[EngagementEvent], error: StoreError) -> Applied:
    """Report that events have to be tried again after an error of KV."""
    log.warning("event.postponed", extra={"email_id": email_id, "events": len(events), "error": str(error)})
    return Applied(verdict=Verdict.AGAIN if isinstance(error, StoreUnavailable) else Verdict.CONTESTED)

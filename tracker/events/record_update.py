# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: one try to write the events of an email into its record, and what it found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker.events import engagement, records
from tracker.events.unanswered_writes import Step, Write, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Entry
    from tracker.events.ses_event import EngagementEvent
    from tracker.events.unanswered_writes import UnansweredWrites


class RecordUpdate:
    """The events, and after each read: the `record`, the `steps` that change it, and events `stored` by earlier tries.

    `read` and `change` are called for each revision of the record, until a write succeeds.
    """

    def __init__(
        self, email_id: str, events: Sequence[EngagementEvent], write_id: str, unanswered: UnansweredWrites
    ) -> None:
        """Begin before the first read."""
        self.email_id = email_id
        self.events = events
        self.write_id = write_id
        self.max_bytes = 0
        self.revision = 0
        self.record: EmailRecipientRecord | None = None
        self.is_ungrouped = False
        self.steps: Sequence[Step] = ()
        self.stored: list[Step] = []
        self._unanswered = unanswered

    @property
    def to(self) -> str:
        """The recipient in the record; empty if it was not read."""
        return self.record.to if self.record else ""

    def read(self, entry: Entry) -> None:
        """Note the record that was read.

        Raises:
            RecordCorrupt: the value is not a record.
        """
        self.steps = ()
        self.revision = entry.revision
        self.record = records.decode(entry.value)
        self.is_ungrouped = records.is_ungrouped(entry.value)
        self.stored += self._unanswered.decide(self.email_id, entry, self.record)

    def change(self, value: bytes) -> tuple[bytes | None, None]:
        """Return the new value, or None if the events change nothing.

        Raises:
            RecordFull: the new value exceeds `max_bytes`.
        """
        assert self.record, "read"
        steps = _steps(self.record, self.events)
        changed = records.rewrite(value, steps[-1].record, self.max_bytes) if steps else None
        self.steps = steps
        return changed, None

    def write(self, *, is_cut_off: bool) -> Write | None:
        """Return the write of the latest change; None if there was none."""
        return Write(self.write_id, self.revision, self.steps, is_cut_off) if self.steps else None

    def duplicates(self) -> list[EngagementEvent]:
        """Return the events that neither this nor an earlier try has added."""
        new = {id(step.event) for step in self.steps}
        stored = {step.key for step in self.stored}
        return [event for event in self.events if id(event) not in new and key_of(event) not in stored]

    def all_steps(self) -> list[Step]:
        """Return each event once: a new one with the record after it, the others with the latest record."""
        assert self.record, "read"
        latest = self.steps[-1].record if self.steps else self.record
        known = {step.key: step for step in (*self.stored, *self.steps)}
        return [known.get(key, Step(event, latest)) for key, event in {key_of(one): one for one in self.events}.items()]


def _steps(record: EmailRecipientRecord, events: Sequence[EngagementEvent]) -> list[Step]:
    """Return each event that changes the record, with the record after the event."""
    steps = []
    for event in events:
        after = engagement.apply(record, event)
        if after is not record:
            steps.append(Step(event, after))
            record = after
    return steps

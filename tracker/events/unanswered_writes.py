# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the writes of records whose outcome is unknown, and what a later read of the record shows about them.

A write depends on the revision that it replaces, so of all writes that replace one revision a single one is stored. A
write can be stored late: it is undecided until the record has another revision.

Batches with events of one email are applied at the same time. While a batch waits for the answer to its write, another
batch may read the record with this write, and replace it. So the batches of an email share what they have read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tracker.events import engagement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Entry
    from tracker.events.ses_event import EngagementEvent

MAX_EMAILS: Final = 5000  # more than the messages that are held


class Step(NamedTuple):
    """An event, and the record of its email after it."""

    event: EngagementEvent
    record: EmailRecipientRecord

    @property
    def key(self) -> tuple[str, str, str]:
        """What the event is known by."""
        return key_of(self.event)


def key_of(event: EngagementEvent) -> tuple[str, str, str]:
    """Return what an event is known by."""
    return event.email_id, event.kind, event.event_id


class Write(NamedTuple):
    """A write, by its id: it replaces the revision `previous` and adds the events of `steps`.

    `is_cut_off` if its answer was still on the way when the process had to stop, and the record was not read since.
    """

    write_id: str
    previous: int
    steps: Sequence[Step]
    is_cut_off: bool = False

    def number(self) -> int:
        """Return the number of the write, by the order in which a tracker begins."""
        return int(self.write_id.rpartition("-")[2])


class UnansweredWrites:
    """The writes by email; the oldest email is forgotten beyond MAX_EMAILS."""

    def __init__(self) -> None:
        """Begin without writes."""
        self._writes: dict[str, list[Write]] = {}
        self._updates: dict[str, int] = {}  # how many are under way, by email
        self._replaced: dict[str, dict[int, str]] = {}  # revisions, and the ids of the writes that have replaced them

    def __len__(self) -> int:
        """Return how many emails have such writes."""
        return len(self._writes)

    @property
    def email_ids(self) -> list[str]:
        """The emails that have such writes."""
        return list(self._writes)

    def begin(self, email_id: str) -> None:
        """Note that an update of a record begins: until its `end`, what is seen of the record is remembered."""
        self._updates[email_id] = self._updates.get(email_id, 0) + 1

    def end(self, email_id: str) -> None:
        """Note that an update has ended."""
        left = self._updates.pop(email_id) - 1
        if left:
            self._updates[email_id] = left
        elif email_id not in self._writes:
            self._replaced.pop(email_id, None)

    def add(self, email_id: str, write: Write) -> None:
        """Remember a write that may have been stored, or may still be."""
        if self._replaced.get(email_id, {}).get(write.previous, write.write_id) != write.write_id:
            return
        self._writes.setdefault(email_id, []).append(write)
        if len(self._writes) > MAX_EMAILS:
            self.forget(next(iter(self._writes)))

    def forget(self, email_id: str) -> None:
        """Forget the writes of an email."""
        self._writes.pop(email_id, None)
        if email_id not in self._updates:
            self._replaced.pop(email_id, None)

    def replaced(self, email_id: str, revision: int, write_id: str) -> None:
        """Note which write has replaced a revision: other writes that would replace it are not stored."""
        self._replaced.setdefault(email_id, {})[revision] = write_id
        if email_id in self._writes:
            self._keep(
                email_id,
                (one for one in self._writes[email_id] if one.previous != revision or one.write_id == write_id),
            )

    def decide(self, email_id: str, entry: Entry, record: EmailRecipientRecord) -> list[Step]:
        """Return the events that a write has stored, by the entry that was read now; forget what is decided.

        If several writes have followed the revision that ours replaces, and none of them was seen, the entry does not
        show whether ours was the first of them. Then the events that the record has are returned: that another tracker
        got the same events meanwhile is less likely than that an answer was lost. Example, with tracker B:

        * Revision 5: both trackers have read it.
        * Revision 6: our write, whose answer was lost, or a write of B.
        * Revision 7: a write of B that replaces 6. It is the entry that was read now, and does not show who wrote 6.
        """
        if entry.previous:
            self._replaced.setdefault(email_id, {})[entry.previous] = entry.write_id
        stored: dict[tuple[str, str, str], Step] = {}
        undecided: list[Write] = []
        replaced = self._replaced.get(email_id, {})
        for write in self._writes.get(email_id, ()):
            by = replaced.get(write.previous)
            if write.write_id in {by, entry.write_id}:
                stored.update((step.key, step) for step in write.steps)
            elif by is None and entry.revision <= write.previous:
                undecided.append(write._replace(is_cut_off=False))
            elif by is None:
                known = (step for step in write.steps if engagement.apply(record, step.event) is record)
                stored.update((step.key, step) for step in known)
        self._keep(email_id, undecided)
        return list(stored.values())

    def cut_off(self) -> list[Step]:
        """Return the events of the first write of each email that was cut off, and forget these writes.

        Writes of one email that are under way at the same time replace the same revision: the first one is stored.
        """
        found: list[Step] = []
        for email_id, writes in list(self._writes.items()):
            first = min((write for write in writes if write.is_cut_off), key=Write.number, default=None)
            found += first.steps if first else ()
            self._keep(email_id, [write for write in writes if not write.is_cut_off])
        return found

    def _keep(self, email_id: str, writes: Iterable[Write]) -> None:
        if left := list(writes):
            self._writes[email_id] = left
        else:
            self.forget(email_id)

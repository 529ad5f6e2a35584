# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Finds out what saved messages would do, and writes nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from shared.errors import KeyMissing, StoreError
from shared.suppression_list import EntryCorrupt
from tracker.commands.replay.replayer import NO_RECORD, ReplayResult, result
from tracker.errors import RecordCorrupt
from tracker.events import engagement, records, suppression
from tracker.events.rebuilder import NotRebuilt

if TYPE_CHECKING:
    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket
    from shared.suppression_list import SuppressionList
    from tracker.events.rebuilder import Rebuilder
    from tracker.events.ses_event import EngagementEvent

MAX_REMEMBERED: Final = 10_000  # records as the events so far would have left them

T = TypeVar("T")


class DryRun:
    """Finds out what an event would do after those before it."""

    def __init__(
        self, recipients: Bucket, suppressions: SuppressionList | None, rebuilder: Rebuilder | None = None
    ) -> None:
        """Read `recipients`, and `suppressions` with SUPPRESSION_ENABLED=true; `rebuilder` with --rebuild."""
        self._recipients = recipients
        self._rebuilder = rebuilder
        self._suppressions = suppressions
        self._records: OrderedDict[str, EmailRecipientRecord] = OrderedDict()
        self._listed: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, line: int, event: EngagementEvent) -> ReplayResult:
        """Return the result that the event would have."""
        try:
            before = await self._record(event.email_id)
            rebuilt = await self._rebuilt(event) if before is None else None
            before = before or rebuilt
            suppressed = await self._suppressed(event, before.to if before else "")
        except StoreError as error:
            return result(line, event, "failed", str(error))
        except RecordCorrupt as error:
            return result(line, event, "failed", str(error), await self._suppressed(event, ""))
        except NotRebuilt as why:
            return result(line, event, "unmatched", str(why), await self._suppressed(event, ""))
        if not before:
            return result(line, event, "unmatched", NO_RECORD, suppressed)
        after = engagement.apply(before, event)
        _remember(self._records, event.email_id, after)
        if after is before:
            return result(line, event, "duplicate", "", suppressed)
        applied = result(line, event, "applied", _changes(before, after), suppressed)
        return replace(applied, rebuilt=True, detail=f"rebuilds the record, {applied.detail}") if rebuilt else applied

    async def _record(self, email_id: str) -> EmailRecipientRecord | None:
        if email_id in self._records:
            return self._records[email_id]
        try:
            return records.decode((await self._recipients.get(email_id)).value)
        except KeyMissing:
            return None

    async def _rebuilt(self, event: EngagementEvent) -> EmailRecipientRecord | None:
        return await self._rebuilder.missing(event.email_id, [event]) if self._rebuilder else None

    async def _suppressed(self, event: EngagementEvent, to: str) -> int:
        """Return how many addresses would be added to the list; `to` is the recipient in the record."""
        if not self._suppressions:
            return 0
        count = 0
        for entry in suppression.entries_of(event, to):
            if entry.address not in self._listed and not await _is_listed(self._suppressions, entry.address):
                count += 1
            _remember(self._listed, entry.address, None)
        return count


async def _is_listed(suppressions: SuppressionList, address: str) -> bool:
    try:
        return await suppressions.find(address) is not None
    except EntryCorrupt:  # it would be replaced
        return False


def _remember(known: OrderedDict[str, T], key: str, value: T) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_REMEMBERED:
        known.popitem(last=False)


def _changes(before: EmailRecipientRecord, after: EmailRecipientRecord) -> str:
    changed = [name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    return f"changes {', '.join(changed)}"

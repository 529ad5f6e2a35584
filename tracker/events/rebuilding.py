# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies events of emails whose records are missing: makes the record first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.errors import RevisionConflict, StoreError, StoreUnavailable, ValueTooLarge
from tracker.events.rebuilder import NotRebuilt
from tracker.events.record_updater import Applied, Verdict, postponed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker.events.rebuilder import Rebuilder
    from tracker.events.record_updater import RecordUpdater
    from tracker.events.ses_event import EngagementEvent

log = logging.getLogger(__name__)


class Rebuilding:
    """Rebuilds with one module, and applies with the other, which gets `Rebuilder.group`."""

    def __init__(self, rebuilder: Rebuilder, updater: RecordUpdater) -> None:
        """Make records with `rebuilder`, apply events with `updater`."""
        self._rebuilder = rebuilder
        self._updater = updater

    async def rebuild(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        """Make the missing record of an email from its events, then apply them.

        The verdict is UNMATCHED, with the reason, if the record cannot or must not be made.
        """
        try:
            rebuilt = await self._rebuilder.rebuild(email_id, events)
        except (StoreUnavailable, RevisionConflict) as error:
            return postponed(email_id, events, error)
        except (NotRebuilt, ValueTooLarge) as error:
            log.info("record.not_rebuilt", extra={"email_id": email_id, "reason": str(error)})
            return Applied(verdict=Verdict.UNMATCHED, error=str(error))
        applied = await self._updater.apply(email_id, events)
        if applied.verdict is Verdict.UNMATCHED:  # deleted meanwhile
            return Applied(verdict=Verdict.CONTESTED)
        return replace(applied, rebuilt=rebuilt)

    async def restore(self, email_id: str, events: Sequence[EngagementEvent]) -> Applied:
        """Apply events of one email, and make what is missing: its record, or its place in the group."""
        applied = await self._updater.apply(email_id, events)
        if applied.verdict is Verdict.UNMATCHED:
            return await self.rebuild(email_id, events)
        if applied.record:
            try:
                await self._rebuilder.ensure_grouped(applied.record)
            except StoreError as error:
                return postponed(email_id, events, error)
        return applied

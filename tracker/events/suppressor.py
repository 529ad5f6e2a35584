# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Puts who must get no more mail into the suppression list; there only with SUPPRESSION_ENABLED=true."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from shared import contract, redaction, suppression_list
from shared.errors import KeyTaken, StoreError
from tracker.events.record_updater import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.kv.bucket import Bucket
    from tracker.events.record_updater import RecordUpdater
    from tracker.events.ses_event import EngagementEvent

log = logging.getLogger(__name__)

MAX_DETAIL_CHARACTERS: Final = 500

_encode = msgspec.json.Encoder().encode


class Suppressor:
    """Applies events, and sees that a permanent bounce or a complaint is in the list before its message is deleted.

    What is in the list stays as it is: the first reason, or that of the operator who put it there.
    """

    def __init__(self, updater: RecordUpdater, suppressions: Bucket) -> None:
        """Let `updater` apply the events, then write to `suppressions`."""
        self._updater = updater
        self._suppressions = suppressions
        self.added: Counter[str] = Counter(dict.fromkeys(contract.SUPPRESSION_REASONS, 0))

    async def apply(self, email_id: str, events: Sequence[EngagementEvent]) -> Verdict:
        """Apply events of one email; settled only when the list is as it should be, too."""
        verdict = await self._updater.apply(email_id, events)
        if verdict in {Verdict.AGAIN, Verdict.CONTESTED}:
            return verdict  # they come again
        try:
            for event in filter(is_reason, events):
                for recipient in event.recipients:
                    await self._add(recipient, event)
        except StoreError as error:
            log.warning("suppression.postponed", extra={"email_id": email_id, "error": str(error)})
            return Verdict.CONTESTED
        return verdict

    async def _add(self, recipient: str, event: EngagementEvent) -> None:
        try:
            address = suppression_list.normalised(recipient)
        except ValueError:  # also idna's errors
            log.warning("suppression.no_address", extra={"email_id": event.email_id})
            return
        try:
            await self._suppressions.create(suppression_list.key_of(address), _encode(_entry(address, event)))
        except KeyTaken:
            return
        self.added[event.kind] += 1
        log.info(
            "suppression.added",
            extra={"email_id": event.email_id, "to": redaction.address(address), "reason": event.kind},
        )


def is_reason(event: EngagementEvent) -> bool:
    """Tell whether whoever got the email must get no more: a bounce for good, or a complaint that is one."""
    kind = (event.failure and event.failure.type) or ""
    return (event.kind == "bounce" and kind.lower() == "permanent") or (
        event.kind == "complaint" and kind.lower() != "not-spam"
    )


def _entry(address: str, event: EngagementEvent) -> contract.Suppression:
    failure = event.failure
    details = (failure.diagnostic, failure.sub_type, failure.type) if failure else ()
    detail = next((detail for detail in details if detail), "")
    return contract.Suppression(
        address=address,
        reason=event.kind,
        detail=detail[:MAX_DETAIL_CHARACTERS],
        email_id=event.email_id,
        suppressed_at=event.at,
    )

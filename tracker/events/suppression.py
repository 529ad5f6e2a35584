# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Adds recipients to the suppression list after permanent bounces and complaints, with SUPPRESSION_ENABLED=true."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from shared import contract, redaction, suppression_list
from tracker.events import engagement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shared.contract import Suppression
    from shared.suppression_list import SuppressionList
    from tracker.events.ses_event import EngagementEvent

log = logging.getLogger(__name__)


class Suppressor:
    """Adds to the list. An existing entry stays, with its first reason or that of an operator."""

    def __init__(self, entries: SuppressionList) -> None:
        """Add to `entries`."""
        self._entries = entries
        self.added: Counter[str] = Counter(dict.fromkeys(contract.SUPPRESSION_REASONS, 0))

    async def __call__(self, events: Sequence[EngagementEvent], to: str) -> int:
        """Add the recipients of permanent bounces and complaints; return how many addresses are new in the list.

        `to` is the recipient in the record, or empty without a record.

        Raises:
            StoreError: the list could not be written.
        """
        return sum([await self._add(entry) for event in events for entry in entries_of(event, to)])

    async def _add(self, entry: Suppression) -> bool:
        outcome, _ = await self._entries.add(entry)
        if outcome == "kept":
            return False
        self.added[entry.reason] += 1
        to = redaction.address(entry.address)
        log.info("suppression.added", extra={"email_id": entry.email_id, "to": to, "reason": entry.reason})
        return True


def entries_of(event: EngagementEvent, to: str) -> Iterator[Suppression]:
    """Yield the entries to add for an event; `to` is the recipient in the record, or empty without a record."""
    if not is_reason(event):
        return
    addresses = _addresses(event, to)
    event = engagement.permitted(event, to)
    if not addresses:
        log.warning("suppression.no_address", extra={"email_id": event.email_id})
    for address in addresses:
        yield _entry(address, event)


def _addresses(event: EngagementEvent, to: str) -> list[str]:
    """Return the addresses that the mail was sent to: the report may name another one, if the mail was forwarded.

    Without a usable `to`, SES's own list of the recipients of the mail counts, and without that the report.
    """
    if known := _valid([to]):
        return known
    sent_to, named = _valid(event.destination), _valid(event.recipients)
    if len(sent_to) > 1:  # not a mail of the relay
        return [address for address in sent_to if address in named]
    return sent_to or named


def _valid(given: Iterable[str]) -> list[str]:
    """Return the addresses that the relay would send to, normalised, each once."""
    addresses: dict[str, None] = {}
    for address in given:
        with suppress(ValueError):  # also idna's errors
            addresses[suppression_list.normalised(address)] = None
    return list(addresses)


def is_reason(event: EngagementEvent) -> bool:
    """Return whether the recipients must get no more mail: a permanent bounce, or a complaint other than not-spam."""
    kind = (event.failure and event.failure.type) or ""
    return event.is_permanent_bounce or (event.kind == "complaint" and kind.lower() != "not-spam")


def _entry(address: str, event: EngagementEvent) -> Suppression:
    failure = event.failure
    details = (failure.diagnostic, failure.sub_type, failure.type) if failure else ()
    detail = next((detail for detail in details if detail), "")
    return contract.Suppression(
        address=address,
        reason=event.kind,
        detail=detail[: suppression_list.MAX_DETAIL_CHARACTERS],
        email_id=event.email_id,
        suppressed_at=event.at,
    )

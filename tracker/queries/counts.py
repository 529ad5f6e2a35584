# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: records become the counts of their group, each record counted once, in its latest revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shared.contract import EmailRecipientRecord, GetEmailEngagementAnalyticsResponse
from tracker.errors import RecordCorrupt
from tracker.events import records

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tally(NamedTuple):
    """What one record adds to the counts."""

    delivered: int
    opened: int
    unique_opened: int
    failed: int


class _Glance(msgspec.Struct, frozen=True, gc=False):
    """The few fields of a record that are counted; the rest is skipped, not built."""

    delivered: bool = False
    opened: bool = False
    open_count: int = 0
    opened_at_list: tuple[msgspec.Raw, ...] = ()
    failed: bool = False


NOTHING: Final = Tally(0, 0, 0, 0)
_glance = msgspec.json.Decoder(_Glance).decode


def tally(value: bytes | None) -> Tally:
    """Return what a stored record counts; nothing if it is missing or corrupt."""
    if value is None:
        return NOTHING
    try:
        seen: _Glance | EmailRecipientRecord = _glance(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            seen = records.decode(value)
        except RecordCorrupt:
            return NOTHING
    return Tally(seen.delivered, max(seen.open_count, len(seen.opened_at_list or ())), seen.opened, seen.failed)


class Counts:
    """The counts of one group while its records come in, in any order and any number of times."""

    def __init__(self) -> None:
        """Begin without emails."""
        self._seen: dict[str, tuple[int, Tally]] = {}
        self._delivered = self._opened = self._unique_opened = self._failed = 0

    def __len__(self) -> int:
        """Return how many emails the group has."""
        return len(self._seen)

    def __contains__(self, email_id: str) -> bool:
        """Tell whether the email belongs to the group."""
        return email_id in self._seen

    def add(self, email_ids: Iterable[str]) -> list[str]:
        """Count these emails as sent; return those that are new."""
        new = [email_id for email_id in email_ids if email_id not in self._seen]
        self._seen.update(dict.fromkeys(new, (0, NOTHING)))
        return new

    def put(self, email_id: str, revision: int, counted: Tally) -> None:
        """Count what a revision of an email's record holds, unless a later one is counted already."""
        known_revision, known = self._seen[email_id]
        if revision <= known_revision:
            return
        self._seen[email_id] = revision, counted
        self._delivered += counted.delivered - known.delivered
        self._opened += counted.opened - known.opened
        self._unique_opened += counted.unique_opened - known.unique_opened
        self._failed += counted.failed - known.failed

    def response(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Return the counts as the contract has them."""
        return GetEmailEngagementAnalyticsResponse(
            group_id=group_id,
            total_sent=len(self._seen),
            delivered=self._delivered,
            opened=self._opened,
            unique_opened=self._unique_opened,
            failed=self._failed,
        )

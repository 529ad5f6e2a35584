# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the counts of a group from its records; each record is counted once, in its latest revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shared import decoding
from shared.contract import EmailRecipientRecord, GetEmailEngagementAnalyticsResponse
from tracker.errors import RecordCorrupt
from tracker.events import records

if TYPE_CHECKING:
    from collections.abc import Iterable


class RecordCounts(NamedTuple):
    """The part of one record in the counts of its group."""

    delivered: int
    opened: int
    unique_opened: int
    failed: int


class _CountedFields(msgspec.Struct, frozen=True, gc=False):
    """The fields of a record that are counted; the others are skipped, which saves time."""

    delivered: bool = False
    opened: bool = False
    open_count: int = 0
    opened_at_list: tuple[msgspec.Raw, ...] = ()
    failed: bool = False


NOTHING: Final = RecordCounts(0, 0, 0, 0)

_decode = decoding.decoder(_CountedFields)


def of_record(value: bytes | None) -> RecordCounts:
    """Return the counts of a stored record; zeros if it is missing or corrupt."""
    if value is None:
        return NOTHING
    try:
        record: _CountedFields | EmailRecipientRecord = _decode(value)
    except decoding.Malformed:
        try:
            record = records.decode(value)
        except RecordCorrupt:
            return NOTHING
    opened = max(record.open_count, len(record.opened_at_list or ()))
    return RecordCounts(record.delivered, opened, record.opened, record.failed)


def total(parts: Iterable[RecordCounts]) -> RecordCounts:
    """Return the sum of counts."""
    return RecordCounts(*map(sum, zip(*parts, strict=True)))


def response(group_id: str, sent: int, counted: RecordCounts) -> GetEmailEngagementAnalyticsResponse:
    """Return the counts of a group in the form of the contract."""
    return GetEmailEngagementAnalyticsResponse(group_id=group_id, total_sent=sent, **counted._asdict())


class GroupCounts:
    """The counts of one group. Its records may be put in any order and any number of times."""

    def __init__(self) -> None:
        """Begin without emails."""
        self._emails: dict[str, tuple[int, RecordCounts]] = {}
        self._delivered = self._opened = self._unique_opened = self._failed = 0

    def __len__(self) -> int:
        """Return the number of emails."""
        return len(self._emails)

    def add(self, email_ids: Iterable[str]) -> list[str]:
        """Count these emails as sent; return those that are new."""
        new = [email_id for email_id in email_ids if email_id not in self._emails]
        self._emails.update(dict.fromkeys(new, (0, NOTHING)))
        return new

    def put(self, email_id: str, revision: int, counts: RecordCounts) -> bool:
        """Count a revision of an email's record, unless a later one is counted; return whether an earlier one was."""
        known_revision, known = self._emails[email_id]
        if revision <= known_revision:
            return False
        self._emails[email_id] = revision, counts
        self._delivered += counts.delivered - known.delivered
        self._opened += counts.opened - known.opened
        self._unique_opened += counts.unique_opened - known.unique_opened
        self._failed += counts.failed - known.failed
        return known_revision > 0

    def response(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Return the counts in the form of the contract."""
        counted = RecordCounts(self._delivered, self._opened, self._unique_opened, self._failed)
        return response(group_id, len(self._emails), counted)

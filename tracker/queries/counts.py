# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the part of one record in the counts of its group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shared import decoding
from tracker.errors import RecordCorrupt
from tracker.events import records

if TYPE_CHECKING:
    from shared.contract import EmailRecipientRecord


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

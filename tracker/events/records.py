# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: a record and the bytes it is stored as, within the bucket's limit. Reads what the Go service wrote, too."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from shared.contract import EmailRecipientRecord
from tracker.errors import RecordCorrupt, RecordFull

if TYPE_CHECKING:
    from shared.contract import ClickEvent, OpenEvent

_decode = msgspec.json.Decoder(EmailRecipientRecord).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_KNOWN = frozenset(EmailRecipientRecord.__struct_encode_fields__)
_encode = msgspec.json.Encoder().encode


def decode(value: bytes) -> EmailRecipientRecord:
    """Read a record; counts that an older service left out are taken from the lists.

    Raises:
        RecordCorrupt: it is none.
    """
    try:
        record = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = _without_nulls(value)
    opens, clicks = len(record.opened_at_list or ()), len(record.click_list or ())
    if opens > record.open_count or clicks > record.click_count:
        return replace(record, open_count=max(opens, record.open_count), click_count=max(clicks, record.click_count))
    return record


def encode(record: EmailRecipientRecord) -> bytes:
    """Return the JSON of a record."""
    return _encode(record)


def rewrite(before: bytes, record: EmailRecipientRecord, max_bytes: int) -> bytes:
    """Return what replaces the stored value `before`; fields that a later version has put there stay.

    Raises:
        RecordFull: it exceeds the limit.
    """
    unknown = {name: field for name, field in _decode_fields(before).items() if name not in _KNOWN}
    if not unknown:
        return fit(record, max_bytes)
    added = b"," + _encode(unknown)[1:]
    return fit(record, max_bytes - len(added))[:-1] + added


def fit(record: EmailRecipientRecord, max_bytes: int) -> bytes:
    """Return the JSON of a record; if it is too long, the oldest opens and clicks go first, then the diagnostic.

    Raises:
        RecordFull: even so it is too long.
    """
    value = _encode(record)
    while len(value) > max_bytes:
        record = _shortened(record, len(value) - max_bytes)
        value = _encode(record)
    return value


def _shortened(record: EmailRecipientRecord, excess: int) -> EmailRecipientRecord:
    if record.opened_at_list or record.click_list:
        return _without_oldest(record, excess)
    if record.click_event_ids:
        return replace(record, click_event_ids=UNSET)
    if record.failure and record.failure.diagnostic:
        return replace(record, failure=replace(record.failure, diagnostic=UNSET))
    if record.failure and (record.failure.type or record.failure.sub_type):
        return replace(record, failure=replace(record.failure, type=UNSET, sub_type=UNSET))
    raise RecordFull(record.email_id)


def _without_oldest(record: EmailRecipientRecord, excess: int) -> EmailRecipientRecord:
    """Drop the oldest entries, each with its comma, until `excess` bytes are gone or one of the lists is."""
    opens, clicks = deque(record.opened_at_list or ()), deque(record.click_list or ())
    while excess > 0:
        is_open = opens and (not clicks or opens[0].opened_at <= clicks[0].clicked_at)
        entries: deque[OpenEvent] | deque[ClickEvent] = opens if is_open else clicks
        excess -= len(_encode(entries.popleft())) + len(",")
        if not entries:  # its name goes with it, which may be enough
            break
    return replace(record, opened_at_list=tuple(opens) or UNSET, click_list=tuple(clicks) or UNSET)


def _without_nulls(value: bytes) -> EmailRecipientRecord:
    try:
        fields: Any = msgspec.json.decode(value)
        present = {name: field for name, field in fields.items() if field is not None}
        return msgspec.convert(present, EmailRecipientRecord)
    except (AttributeError, ValueError, RecursionError) as error:
        raise RecordCorrupt(str(error)) from error

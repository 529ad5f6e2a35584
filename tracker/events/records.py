# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: reads and writes the JSON of a record, within the bucket's limit. Records of the Go service are read too."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from shared import decoding
from shared.contract import EmailRecipientRecord
from tracker.errors import RecordCorrupt, RecordFull
from tracker.events.json_fields import EARLIEST

if TYPE_CHECKING:
    from shared.contract import ClickEvent, OpenEvent

_decode = decoding.decoder(EmailRecipientRecord)
_decode_fields = decoding.decoder(dict[str, Any])
_decode_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_TIMES = ("delivered_at", "last_opened_at", "last_clicked_at", "failed_at", "complained_at")
_KNOWN = frozenset(EmailRecipientRecord.__struct_encode_fields__)
_encode = msgspec.json.Encoder().encode

UNGROUPED: Final = b'"ungrouped":true'  # a quotation mark inside a JSON string is escaped, so no text contains this


def decode(value: bytes) -> EmailRecipientRecord:
    """Read a record, with the fields that older services left out, and without times that are none.

    Counts are taken from the lists, and the time of a complaint from the failure.

    Raises:
        RecordCorrupt: the value is not a record.
    """
    try:
        record = _decode(value)
    except decoding.Malformed:
        record = _without_nulls(value)
    unknown = {name: UNSET for name in _TIMES if (at := getattr(record, name)) and at < EARLIEST}
    if unknown:
        record = replace(record, **unknown)
    if record.failure and record.failure.kind == "complaint" and not record.complained_at:
        record = replace(record, complained_at=record.failed_at)
    opens, clicks = len(record.opened_at_list or ()), len(record.click_list or ())
    if opens > record.open_count or clicks > record.click_count:
        return replace(record, open_count=max(opens, record.open_count), click_count=max(clicks, record.click_count))
    return record


def encode(record: EmailRecipientRecord) -> bytes:
    """Return the JSON of a record."""
    return _encode(record)


def encode_ungrouped(record: EmailRecipientRecord) -> bytes:
    """Return the JSON of a rebuilt record, with the mark that the group index may not have its id yet."""
    return _encode(record)[:-1] + b"," + UNGROUPED + b"}"


def is_ungrouped(value: bytes) -> bool:
    """Return whether a stored record has the mark."""
    return UNGROUPED in value


def grouped(value: bytes) -> bytes | None:
    """Return a stored record without the mark; None if it has none."""
    return value.replace(b"," + UNGROUPED, b"", 1) if UNGROUPED in value else None


def rewrite(before: bytes, record: EmailRecipientRecord, max_bytes: int) -> bytes:
    """Return the JSON of a record that replaces the stored value `before`; unknown fields of `before` are kept.

    Raises:
        RecordFull: the JSON exceeds the limit.
    """
    unknown = {name: field for name, field in _decode_raw_fields(before).items() if name not in _KNOWN}
    if not unknown:
        return fit(record, max_bytes)
    added = b"," + _encode(unknown)[1:]
    return fit(record, max_bytes - len(added))[:-1] + added


def fit(record: EmailRecipientRecord, max_bytes: int) -> bytes:
    """Return the JSON of a record; if it is too long, the oldest opens and clicks go first, then the diagnostics.

    Raises:
        RecordFull: the JSON is too long even without them.
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
    if record.delay and record.delay.diagnostic:
        return replace(record, delay=replace(record.delay, diagnostic=UNSET))
    if record.failure and record.failure.diagnostic:
        return replace(record, failure=replace(record.failure, diagnostic=UNSET))
    if record.delay:
        return replace(record, delay=UNSET)
    if record.failure and (record.failure.type or record.failure.sub_type):
        return replace(record, failure=replace(record.failure, type=UNSET, sub_type=UNSET))
    raise RecordFull(record.email_id)


def _without_oldest(record: EmailRecipientRecord, excess: int) -> EmailRecipientRecord:
    """Drop the oldest entries, each with its comma, until `excess` bytes are saved or one of the lists is empty."""
    opens, clicks = deque(record.opened_at_list or ()), deque(record.click_list or ())
    while excess > 0:
        is_open = opens and (not clicks or opens[0].opened_at <= clicks[0].clicked_at)
        entries: deque[OpenEvent] | deque[ClickEvent] = opens if is_open else clicks
        excess -= len(_encode(entries.popleft())) + len(",")
        if not entries:  # an empty list is not written at all, which may save enough
            break
    return replace(record, opened_at_list=tuple(opens) or UNSET, click_list=tuple(clicks) or UNSET)


def _without_nulls(value: bytes) -> EmailRecipientRecord:
    try:
        present = {name: field for name, field in _decode_fields(value).items() if field is not None}
        return msgspec.convert(present, EmailRecipientRecord)
    except (decoding.Malformed, msgspec.ValidationError) as error:
        raise RecordCorrupt(str(error)) from error

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the time of the last activity of an email, from its stored record."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the annotations
from typing import TYPE_CHECKING

import msgspec

from shared import decoding
from shared.contract import Timestamp  # noqa: TC001 - msgspec reads the annotations
from tracker.events.json_fields import EARLIEST

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Open(msgspec.Struct, frozen=True, gc=False):
    opened_at: Timestamp | None = None


class _Click(msgspec.Struct, frozen=True, gc=False):
    clicked_at: Timestamp | None = None


class _Delay(msgspec.Struct, frozen=True, gc=False):
    at: Timestamp | None = None


class _Times(msgspec.Struct, frozen=True, gc=False):
    """The times of a record; the other fields are skipped, which saves time."""

    group_id: str | None = None
    sent_at: Timestamp | None = None
    delivered_at: Timestamp | None = None
    last_opened_at: Timestamp | None = None
    last_clicked_at: Timestamp | None = None
    failed_at: Timestamp | None = None
    complained_at: Timestamp | None = None
    delay: _Delay | None = None
    opened_at_list: tuple[_Open, ...] | None = None
    click_list: tuple[_Click, ...] | None = None


class Activity(msgspec.Struct, frozen=True):
    """The group of an email, and the latest of the times in its record."""

    group_id: str
    last_at: datetime


_decode = decoding.decoder(_Times)


def of_record(value: bytes) -> Activity | None:
    """Return the last activity; None if the value is not a record, or has no time since 2000."""
    try:
        times = _decode(value)
    except decoding.Malformed:
        return None
    last_at = max((at for at in _all(times) if at), default=None)
    if last_at is None or last_at < EARLIEST:
        return None
    return Activity(times.group_id or "", last_at)


def _all(times: _Times) -> Iterator[datetime | None]:
    yield times.sent_at
    yield times.delivered_at
    yield times.last_opened_at
    yield times.last_clicked_at
    yield times.failed_at
    yield times.complained_at
    if times.delay:
        yield times.delay.at
    for opened in times.opened_at_list or ():
        yield opened.opened_at
    for click in times.click_list or ():
        yield click.clicked_at

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: (record, event) -> record. Idempotent and commutative: any order and any repeats end in the same record.

An event brings no personal data back into an erased record.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from shared import contract
from shared.contract import ClickEvent, Delay, EmailRecipientRecord, Failure, OpenEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker.events.ses_event import EngagementEvent

E = TypeVar("E", OpenEvent, ClickEvent)

NEVER: Final = datetime.min.replace(tzinfo=UTC)


def apply(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    """Return the record after the event; the same object if the event changes nothing."""
    event = permitted(event, record.to)
    match event.kind:
        case "delivery":
            return _delivered(record, event)
        case "open":
            return _opened(record, event)
        case "click":
            return _clicked(record, event)
        case "bounce" | "reject":
            return _failed(record, event)
        case "complaint":
            return _complained(_failed(record, event), event)
        case "delay":
            return _delayed(record, event)


def permitted(event: EngagementEvent, to: str) -> EngagementEvent:
    """Return the event as the email's record may hold it, whose recipient is `to`: without data if that is erased."""
    if to != contract.ERASED:
        return event
    failure = replace(event.failure, diagnostic=UNSET) if event.failure else None
    delay = replace(event.delay, diagnostic=UNSET) if event.delay else None
    return replace(event, link="", failure=failure, delay=delay)


def _delivered(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    if record.delivered and record.delivered_at and record.delivered_at <= event.at:
        return record
    return replace(record, delivered=True, delivered_at=event.at)


def _opened(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    opened = OpenEvent(event_id=event.event_id, opened_at=event.at)
    entries, is_new = _merged(record.opened_at_list or (), opened, lambda entry: (entry.opened_at, entry.event_id))
    last = _latest(record.last_opened_at, event.at)
    if entries is None and last == record.last_opened_at:
        return record
    return replace(
        record,
        opened=True,
        open_count=record.open_count + is_new,
        opened_at_list=record.opened_at_list if entries is None else entries,
        last_opened_at=last,
    )


def _clicked(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    click = ClickEvent(event_id=event.event_id, link=event.link, clicked_at=event.at)
    known_to_go = record.click_event_ids or ()
    if event.event_id in known_to_go and all(entry.event_id != event.event_id for entry in record.click_list or ()):
        return record  # the Go service counted this click and kept only its id
    entries, is_new = _merged(
        record.click_list or (), click, lambda entry: (entry.clicked_at, entry.event_id, entry.link)
    )
    last = _latest(record.last_clicked_at, event.at)
    if entries is None and last == record.last_clicked_at:
        return record
    return replace(
        record,
        clicked=True,
        click_count=record.click_count + is_new,
        click_event_ids=tuple(sorted({*known_to_go, event.event_id})) if known_to_go else UNSET,
        click_list=record.click_list if entries is None else entries,
        last_clicked_at=last,
    )


def _failed(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    failure = event.failure or Failure(kind=event.kind)
    if record.failed and record.failed_at:
        known = record.failure
        if known and _rank(record.failed_at, known) <= _rank(event.at, failure):
            return record
        if not known and record.failed_at < event.at:  # the Go service writes no `failure`
            return record
    return replace(record, failed=True, failed_at=event.at, failure=failure)


def _complained(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    """Keep the earliest complaint, which an earlier bounce keeps out of `failure`."""
    if record.complained_at and record.complained_at <= event.at:
        return record
    return replace(record, complained_at=event.at)


def _delayed(record: EmailRecipientRecord, event: EngagementEvent) -> EmailRecipientRecord:
    delay = event.delay or Delay(at=event.at)
    if record.delay and _delay_rank(record.delay) >= _delay_rank(delay):
        return record
    return replace(record, delay=delay)


def _rank(at: datetime, failure: Failure) -> tuple[datetime, str, str, str, str]:
    """Return the order of failures: the earliest counts; the other fields make the choice the same for all trackers."""
    return at, failure.kind, failure.type or "", failure.sub_type or "", failure.diagnostic or ""


def _delay_rank(delay: Delay) -> tuple[datetime, datetime, str, str]:
    """Return the order of delays: the latest counts; the other fields make the choice the same for all trackers."""
    return delay.at, delay.until or NEVER, delay.type or "", delay.diagnostic or ""


def _merged(
    known: tuple[E, ...], entry: E, order: Callable[[E], tuple[object, ...]]
) -> tuple[tuple[E, ...] | None, bool]:
    """Return the entries with `entry` in its place by time, None if it is known, and whether its id is new.

    One id at two times counts once, at the earlier one.
    """
    same = [one for one in known if one.event_id == entry.event_id]
    if same and order(same[0]) <= order(entry):
        return None, False
    entries = [one for one in known if one.event_id != entry.event_id]
    entries.append(entry)
    return tuple(sorted(entries, key=order)), not same  # sorts all: the Go service keeps the order of arrival


def _latest(known: datetime | UnsetType, at: datetime) -> datetime:
    return max(known, at) if known else at

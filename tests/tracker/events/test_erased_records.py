# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Events of an erased email are counted, and bring no personal data back: into the record, a push event, the list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hypothesis import given, settings
from msgspec import UNSET
from msgspec.structs import replace

from shared import contract, erasure
from shared.contract import Delay, Failure
from shared.erasure import Erasures
from tests.tracker.events.test_engagement import after, some_events, starts
from tests.tracker.examples import EMAIL, TO, at, event, record
from tracker.events import push_events, records, suppression
from tracker.events.record_updater import RecordUpdater

if TYPE_CHECKING:
    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket
    from tracker.events.ses_event import EngagementEvent

BOUNCE = Failure(kind="bounce", type="Permanent", sub_type="General", diagnostic=f"550 {TO}")
EVENTS = [
    event("delivery", 1),
    event("open", 2),
    event("click", 3, link="https://example.com/reader"),
    event("reject", 6, "e3", failure=Failure(kind="reject", diagnostic="reader")),
    event("complaint", 5, "e2", failure=Failure(kind="complaint", type="abuse", diagnostic="reader")),
    event("bounce", 4, failure=BOUNCE),
    event("delay", 7, delay=Delay(at=at(7), type="MailboxFull", diagnostic="reader")),
]


def erased(one: EmailRecipientRecord) -> EmailRecipientRecord:
    value = records.encode(one)
    return records.decode(erasure.erase(value) or value)


def in_order(one: EmailRecipientRecord) -> EmailRecipientRecord:
    """Sort the clicks and their ids, which the Go service leaves in the order of their arrival."""
    clicks = sorted(one.click_list or (), key=lambda click: (click.clicked_at, click.event_id))
    return replace(one, click_list=tuple(clicks), click_event_ids=tuple(sorted(one.click_event_ids or ())))


@settings(max_examples=100)
@given(starts, some_events, some_events)
def test_a_record_is_the_same_whether_events_come_before_or_after_it_is_erased(
    start: EmailRecipientRecord, events: list[EngagementEvent], later: list[EngagementEvent]
) -> None:
    both = after(start, events + later)
    assert in_order(after(erased(after(start, events)), later)) == in_order(erased(both))
    fields = ("delivered", "opened", "open_count", "clicked", "click_count", "failed", "failed_at", "complained_at")
    assert all(getattr(erased(both), name) == getattr(both, name) for name in fields)


async def test_the_tracker_stores_and_publishes_no_data_of_an_erased_email(recipients: Bucket) -> None:
    published: list[bytes] = []

    async def publish(one: EngagementEvent, after_it: EmailRecipientRecord) -> None:
        if one.kind in push_events.SUBJECTS:
            published.append(push_events.payload(one, after_it))

    await recipients.create(EMAIL, records.encode(record(tags={"who": "reader"})))
    await Erasures(recipients).erase(EMAIL)
    updater = RecordUpdater(recipients, publish)
    for one in EVENTS:
        assert (await updater.apply(EMAIL, [one])).new == 1
        assert (await updater.apply(EMAIL, [one])).duplicates == 1
    stored = records.decode((await recipients.get(EMAIL)).value)
    assert (stored.to, stored.tags) == (contract.ERASED, UNSET)
    assert stored.failure == Failure(kind="bounce", type="Permanent", sub_type="General")
    assert stored.delay == Delay(at=at(7), type="MailboxFull")
    assert [click.link for click in stored.click_list or ()] == [""]
    assert (stored.open_count, stored.click_count) == (1, 1)
    assert len(published) == 6
    assert b"reader" not in b"".join(published) + records.encode(stored)


def test_a_bounce_or_complaint_of_an_erased_email_still_suppresses_the_address_without_the_text_of_the_server() -> None:
    bounced = event("bounce", 4, failure=BOUNCE, destination=(TO,), recipients=(TO,))
    (entry,) = suppression.entries_of(bounced, contract.ERASED)
    assert (entry.address, entry.detail) == (TO, "General")
    assert [one.detail for one in suppression.entries_of(bounced, TO)] == [f"550 {TO}"]


async def test_an_event_that_is_applied_while_the_record_is_erased_brings_nothing_back(recipients: Bucket) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    change_first = recipients.get

    async def get_before_the_erasure(key: str) -> object:
        entry = await change_first(key)
        await Erasures(recipients).erase(EMAIL)
        return entry

    recipients.get = get_before_the_erasure  # type: ignore[assignment,method-assign]

    async def publish(_event: EngagementEvent, _record: EmailRecipientRecord) -> None:
        pass

    applied = await RecordUpdater(recipients, publish).apply(EMAIL, EVENTS)
    assert applied.new == len(EVENTS)
    assert recipients.conflicts == 1
    value = (await recipients.get_from_leader(EMAIL)).value
    assert b"reader" not in value
    assert records.decode(value).failed
    assert datetime.now(UTC) > records.decode(value).sent_at

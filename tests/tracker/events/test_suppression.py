# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A recipient is in the list before the message of the permanent bounce or the complaint is deleted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from shared import contract, suppression_list
from shared.contract import Failure, Suppression
from shared.errors import KeyMissing
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.suppression_list import SuppressionList
from tests.tracker.examples import EMAIL, at, event, record
from tracker.events import engagement, records, suppression
from tracker.events.push_events import publish_nothing
from tracker.events.record_updater import RecordUpdater, Verdict
from tracker.events.suppression import Suppressor, is_reason

if TYPE_CHECKING:
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tracker.events.ses_event import EngagementEvent

ADA = "ada@example.com"
PERMANENT = Failure(kind="bounce", type="Permanent", sub_type="General", diagnostic="smtp; 550 5.1.1 user unknown")


def bounce(seconds: int = 1, failure: Failure | None = PERMANENT, *recipients: str) -> EngagementEvent:
    return replace(event("bounce", seconds), failure=failure, recipients=recipients or (ADA,))


def forwarded(*named: str, to: str = ADA) -> EngagementEvent:
    """A bounce of a mail that was sent to one address and names others."""
    return replace(event("bounce", 1), failure=PERMANENT, recipients=named, destination=(to,))


def complaint(feedback: str | None = "abuse") -> EngagementEvent:
    failure = Failure(kind="complaint", type=feedback) if feedback else Failure(kind="complaint")
    return replace(event("complaint"), failure=failure, recipients=(ADA,))


@pytest.fixture
async def suppressions(connection: Connection, inbox: Inbox) -> Bucket:
    """The bucket of the list, empty."""
    await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    return Bucket(inbox, connection, contract.EMAIL_SUPPRESSIONS_BUCKET)


@pytest.fixture
def suppressor(suppressions: Bucket) -> Suppressor:
    """The suppressor of the list."""
    return Suppressor(SuppressionList(suppressions))


@pytest.fixture
def suppressing(recipients: Bucket, suppressor: Suppressor) -> RecordUpdater:
    """An updater that adds to the list."""
    return RecordUpdater(recipients, publish_nothing, suppressor)


async def listed(suppressions: Bucket, address: str = ADA) -> Suppression | None:
    try:
        entry = await suppressions.get_from_leader(suppression_list.key_of(address))
    except KeyMissing:
        return None
    return msgspec.json.decode(entry.value, type=Suppression)


@pytest.mark.parametrize(
    ("happened", "counts"),
    [
        (bounce(), True),
        (bounce(1, Failure(kind="bounce", type="permanent")), True),
        (bounce(1, Failure(kind="bounce", type="Transient")), False),
        (bounce(1, Failure(kind="bounce", type="Undetermined")), False),
        (bounce(1, Failure(kind="bounce")), False),
        (bounce(1, None), False),
        (complaint(), True),
        (complaint(None), True),
        (complaint("not-spam"), False),
        (complaint("Not-Spam"), False),
        (event("delivery"), False),
        (event("open"), False),
        (event("click"), False),
        (event("reject", failure=Failure(kind="reject", type="Permanent")), False),
        (event("delay"), False),
    ],
)
def test_only_permanent_bounces_and_complaints_are_a_reason(happened: EngagementEvent, *, counts: bool) -> None:
    assert is_reason(happened) is counts


async def test_a_permanent_bounce_is_listed_with_the_diagnostic_of_ses(
    suppressing: RecordUpdater, suppressor: Suppressor, suppressions: Bucket, recipients: Bucket
) -> None:
    await recipients.create(EMAIL, records.encode(record(to=ADA)))
    assert (await suppressing.apply(EMAIL, [bounce(1, PERMANENT, "Ada <ADA@Example.com>")])).verdict is Verdict.SETTLED
    assert await listed(suppressions) == Suppression(
        address=ADA,
        reason="bounce",
        detail="smtp; 550 5.1.1 user unknown",
        email_id=EMAIL,
        suppressed_at=at(1),
    )
    assert suppressor.added["bounce"] == 1


async def test_the_first_reason_stays_and_a_replay_changes_nothing(
    suppressing: RecordUpdater, suppressor: Suppressor, suppressions: Bucket, recipients: Bucket
) -> None:
    await recipients.create(EMAIL, records.encode(record(to=ADA)))
    await suppressing.apply(EMAIL, [bounce(2)])
    first = await listed(suppressions)
    assert (await suppressing.apply(EMAIL, [bounce(2), bounce(1), complaint()])).verdict is Verdict.SETTLED
    assert await listed(suppressions) == first
    assert suppressor.added.total() == 1


async def test_an_event_without_a_record_is_listed_too(suppressing: RecordUpdater, suppressions: Bucket) -> None:
    assert (await suppressing.apply("no-such-email", [complaint()])).verdict is Verdict.UNMATCHED
    assert await listed(suppressions)


async def test_other_events_are_not_listed(
    suppressing: RecordUpdater, suppressions: Bucket, recipients: Bucket
) -> None:
    await recipients.create(EMAIL, records.encode(record(to=ADA)))
    happened = [event("delivery"), complaint("not-spam"), bounce(1, Failure(kind="bounce", type="Transient"))]
    assert (await suppressing.apply(EMAIL, happened)).verdict is Verdict.SETTLED
    assert await listed(suppressions) is None


async def test_a_failed_write_of_the_list_is_contested_and_the_next_try_adds_the_entry(
    suppressing: RecordUpdater,
    suppressions: Bucket,
    recipients: Bucket,
    connection: Connection,
) -> None:
    await recipients.create(EMAIL, records.encode(record(to=ADA)))
    await connection.client.jetstream().delete_stream("KV_email-suppressions")
    assert (await suppressing.apply(EMAIL, [bounce()])).verdict is Verdict.CONTESTED
    await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    assert (await suppressing.apply(EMAIL, [bounce()])).verdict is Verdict.SETTLED
    assert await listed(suppressions)


@pytest.mark.parametrize("to", ["ada@forward.example", "Ada <Ada@Forward.Example>"])
@pytest.mark.parametrize("named", [("ada.private@mail.example",), (), ("no address",), ("x@y.example", "z@y.example")])
async def test_the_address_that_the_mail_was_sent_to_is_listed_whichever_one_the_report_names(
    suppressing: RecordUpdater, suppressions: Bucket, recipients: Bucket, to: str, named: tuple[str, ...]
) -> None:
    await recipients.create(EMAIL, records.encode(record(to=to)))
    happened = forwarded(*named, to="ignored@forward.example")
    assert (await suppressing.apply(EMAIL, [happened])).suppressed == 1
    assert await listed(suppressions, "ada@forward.example")
    for other in (*named, "ignored@forward.example"):
        assert await listed(suppressions, other) is None


async def test_without_a_record_the_recipient_in_the_event_is_listed(
    suppressing: RecordUpdater, suppressions: Bucket
) -> None:
    assert (await suppressing.apply("no-such-email", [forwarded("ada.private@mail.example")])).suppressed == 1
    assert await listed(suppressions)
    assert await listed(suppressions, "ada.private@mail.example") is None


async def test_a_duplicate_event_lists_the_recipient_of_the_record(
    suppressing: RecordUpdater, suppressions: Bucket, recipients: Bucket
) -> None:
    bounced = records.encode(engagement.apply(record(to=ADA), forwarded("other@mail.example")))
    await recipients.create(EMAIL, bounced)
    assert (await suppressing.apply(EMAIL, [forwarded("other@mail.example")])).duplicates == 1
    assert await listed(suppressions)


async def test_a_record_that_cannot_be_read_does_not_keep_the_recipient_out_of_the_list(
    suppressing: RecordUpdater, suppressions: Bucket, recipients: Bucket
) -> None:
    await recipients.create(EMAIL, b"{")
    assert (await suppressing.apply(EMAIL, [forwarded()])).verdict is Verdict.STUCK
    assert await listed(suppressions)


@pytest.mark.parametrize(
    ("to", "destination", "named", "expected"),
    [
        ("", (), ("Ada@Example.com", ADA, "bob@example.com"), [ADA, "bob@example.com"]),
        ("ada", (ADA,), ("bob@example.com",), [ADA]),
        ("", ("no address",), (ADA,), [ADA]),
        ("", (ADA, "bob@example.com"), ("BOB@example.com",), ["bob@example.com"]),
        ("", (ADA, "bob@example.com"), ("eve@example.com",), []),
        ("", (), (), []),
    ],
)
def test_the_record_counts_before_the_event_and_the_event_before_the_report(
    to: str, destination: tuple[str, ...], named: tuple[str, ...], expected: list[str]
) -> None:
    happened = replace(bounce(), destination=destination, recipients=named)
    assert [entry.address for entry in suppression.entries_of(happened, to)] == expected


async def test_an_invalid_address_is_logged_and_the_event_is_settled(
    suppressing: RecordUpdater, recipients: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await recipients.create(EMAIL, records.encode(record(to="ada")))
    assert (await suppressing.apply(EMAIL, [bounce(1, PERMANENT, "ada", "a@bü..x")])).verdict is Verdict.SETTLED
    assert [line.message for line in caplog.records] == ["suppression.no_address"]

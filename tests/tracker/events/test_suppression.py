# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Who bounced for good or complained is in the list before the message that says so is deleted."""

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
from tracker.events import records
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


def complaint(feedback: str | None = "abuse") -> EngagementEvent:
    failure = Failure(kind="complaint", type=feedback) if feedback else Failure(kind="complaint")
    return replace(event("complaint"), failure=failure, recipients=(ADA,))


@pytest.fixture
async def suppressions(connection: Connection, inbox: Inbox) -> Bucket:
    """The list, empty."""
    await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    return Bucket(inbox, connection, contract.EMAIL_SUPPRESSIONS_BUCKET)


@pytest.fixture
def suppressor(suppressions: Bucket) -> Suppressor:
    """What adds to the list."""
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
    ],
)
def test_only_bounces_for_good_and_complaints_are_a_reason(happened: EngagementEvent, *, counts: bool) -> None:
    assert is_reason(happened) is counts


async def test_who_bounced_for_good_is_listed_with_the_words_of_ses(
    suppressing: RecordUpdater, suppressor: Suppressor, suppressions: Bucket, recipients: Bucket
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
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
    await recipients.create(EMAIL, records.encode(record()))
    await suppressing.apply(EMAIL, [bounce(2)])
    first = await listed(suppressions)
    assert (await suppressing.apply(EMAIL, [bounce(2), bounce(1), complaint()])).verdict is Verdict.SETTLED
    assert await listed(suppressions) == first
    assert suppressor.added.total() == 1


async def test_an_email_without_record_suppresses_anyway(suppressing: RecordUpdater, suppressions: Bucket) -> None:
    assert (await suppressing.apply("no-such-email", [complaint()])).verdict is Verdict.UNMATCHED
    assert await listed(suppressions)


async def test_what_is_no_reason_is_not_listed(
    suppressing: RecordUpdater, suppressions: Bucket, recipients: Bucket
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    happened = [event("delivery"), complaint("not-spam"), bounce(1, Failure(kind="bounce", type="Transient"))]
    assert (await suppressing.apply(EMAIL, happened)).verdict is Verdict.SETTLED
    assert await listed(suppressions) is None


async def test_a_list_that_cannot_be_written_keeps_the_message_and_a_replay_repairs_it(
    suppressing: RecordUpdater,
    suppressions: Bucket,
    recipients: Bucket,
    connection: Connection,
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    await connection.client.jetstream().delete_stream("KV_email-suppressions")
    assert (await suppressing.apply(EMAIL, [bounce()])).verdict is Verdict.CONTESTED
    await create_missing(connection, [contract.EMAIL_SUPPRESSIONS_BUCKET])
    assert (await suppressing.apply(EMAIL, [bounce()])).verdict is Verdict.SETTLED
    assert await listed(suppressions)


async def test_what_is_no_address_is_a_line_in_the_log_and_holds_nothing_up(
    suppressing: RecordUpdater, recipients: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await recipients.create(EMAIL, records.encode(record()))
    assert (await suppressing.apply(EMAIL, [bounce(1, PERMANENT, "nobody", "a@bü..x")])).verdict is Verdict.SETTLED
    assert [line.message for line in caplog.records] == ["suppression.no_address"] * 2

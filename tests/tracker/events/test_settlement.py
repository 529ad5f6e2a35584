# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each received message is settled once: its event is applied and the message deleted, or it is left to the queue."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from tests.stack import ses_events
from tests.stack.waiting import until
from tests.tracker.events.polling import Verdicts, logged, of_email, polling
from tests.tracker.examples import AT, EMAIL, TRACKING_ID, record
from tracker.events import records
from tracker.events.record_updater import Verdict

if TYPE_CHECKING:
    from shared.kv.bucket import Bucket
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.record_updater import RecordUpdater

pytestmark = pytest.mark.usefixtures("hasty")


async def test_an_event_is_in_its_record_before_its_message_is_deleted(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    async with polling(sqs, updater):
        message_id = sqs.send(of_email())
        await sqs.wait_until_empty()
    assert sqs.deleted == [message_id]
    assert records.decode((await recipients.get(EMAIL)).value) == record(delivered=True, delivered_at=AT)


async def test_events_of_one_email_are_applied_together(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.SETTLED)
    for number in range(6):
        sqs.send(of_email(f"email-{number % 2}", f"sns-{number}"))
    async with polling(sqs, updater):
        await sqs.wait_until_empty()
    assert sorted((email_id, [event.event_id for event in events]) for email_id, events in updater.asked) == [
        ("email-0", ["sns-0", "sns-2", "sns-4"]),
        ("email-1", ["sns-1", "sns-3", "sns-5"]),
    ]


@pytest.mark.parametrize(
    ("body", "level", "outcome"),
    [
        ("{", logging.WARNING, "malformed"),
        (
            ses_events.notification({"eventType": "Bounce", "mail": {"destination": ["a@example.com"]}}),
            logging.WARNING,
            "malformed",
        ),
        (ses_events.notification(ses_events.send(TRACKING_ID, AT)), logging.INFO, "ignored"),
        (
            '{"Type":"Notification","Message":"Successfully validated SNS topic for Amazon SES event publishing."}',
            logging.INFO,
            "ignored",
        ),
    ],
)
async def test_a_message_without_an_engagement_event_is_counted_logged_and_deleted(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture, body: str, level: int, outcome: str
) -> None:
    caplog.set_level(logging.INFO, "tracker")
    updater = Verdicts(Verdict.SETTLED)
    message_id = sqs.send(body)
    async with polling(sqs, updater) as running:
        await sqs.wait_until_empty()
    assert sqs.deleted == [message_id]
    assert not updater.asked
    assert running.settlement.outcomes["none", outcome] == 1
    assert [(one.message, one.levelno) for one in caplog.records] == [("event.ignored", level)]
    assert "@" not in str(vars(caplog.records[0]))


def batch_of_a_function(*bodies: str) -> str:
    """Return the event of a Lambda function, whose records are SQS messages."""
    return json.dumps({"Records": [{"messageId": f"sqs-{n}", "body": body} for n, body in enumerate(bodies)]})


async def test_all_events_of_a_message_are_applied_before_it_is_deleted(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater
) -> None:
    for email_id in ("email-0", "email-1"):
        await recipients.create(email_id, records.encode(record(email_id=email_id)))
    bodies = [of_email("email-0", "sns-0"), "{", of_email("email-1", "sns-1")]
    async with polling(sqs, updater) as running:
        message_id = sqs.send(batch_of_a_function(*bodies))
        await sqs.wait_until_empty()
    assert sqs.deleted == [message_id]
    for email_id in ("email-0", "email-1"):
        assert records.decode((await recipients.get(email_id)).value).delivered
    assert running.settlement.outcomes["none", "malformed"] == 1


@pytest.mark.parametrize("verdict", [Verdict.AGAIN, Verdict.UNMATCHED, Verdict.CONTESTED, Verdict.STUCK])
async def test_a_message_with_an_event_that_is_not_applied_stays_in_the_queue(
    sqs: SqsEndpoint, verdict: Verdict
) -> None:
    updater = Verdicts(verdict, Verdict.SETTLED)
    sqs.send(batch_of_a_function(of_email("email-0", "sns-0"), of_email("email-1", "sns-1")))
    async with polling(sqs, updater) as running:
        await updater.wait_until_asked(1)
        other = sqs.send(of_email("email-2", "sns-2"))
        await until(lambda: sqs.deleted)
        assert running.settlement.held == 0
    assert sqs.deleted == [other]
    assert ("ChangeMessageVisibilityBatch" in sqs.calls) == (verdict is not Verdict.STUCK)


@pytest.mark.parametrize(("wait", "invisible"), [(0.5, 60), (60, 60), (90.7, 90), (86_400, 43_000)])
async def test_the_queue_delivers_such_a_message_again_after_a_time_that_sqs_allows(
    sqs: SqsEndpoint, wait: float, invisible: int
) -> None:
    """A shorter time would use up the receives of its redrive policy while KV is away."""
    sqs.send(batch_of_a_function(of_email("email-0", "sns-0"), of_email("email-1", "sns-1")))
    async with polling(sqs, Verdicts(Verdict.AGAIN), record_wait_seconds=wait):
        await sqs.wait_for_calls("ChangeMessageVisibilityBatch")
        [payload] = [call.payload for call in sqs.requests if call.action == "ChangeMessageVisibilityBatch"]
        assert [entry["VisibilityTimeout"] for entry in payload["Entries"]] == [invisible]
        assert (sqs.visible, sqs.in_flight) == (0, 1)


async def test_many_ignored_messages_are_logged_with_a_limit(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        sqs.send("{")
    async with polling(sqs, Verdicts(Verdict.SETTLED)):
        await sqs.wait_until_empty()
    assert len(sqs.deleted) == 100
    assert len(logged(caplog, "event.ignored")) == 20


async def test_a_message_whose_record_cannot_be_read_is_left_to_the_queue(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    await recipients.create("corrupt", b"{}")
    await recipients.create(EMAIL, records.encode(record()))
    sqs.send(of_email("corrupt"))
    other = sqs.send(of_email())
    async with polling(sqs, updater):
        await until(lambda: sqs.deleted)
        await until(lambda: logged(caplog, "record.corrupt"))
    assert sqs.deleted == [other]
    assert (sqs.visible, sqs.in_flight) == (0, 1)
    assert "ChangeMessageVisibilityBatch" not in sqs.calls


async def test_messages_are_still_settled_after_the_receiver_has_failed(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.UNMATCHED)
    message_id = sqs.send(of_email())
    async with polling(sqs, updater, long_polls=1) as running:
        await sqs.wait_for_calls("ReceiveMessage", 2)
        sqs.fail_next("ReceiveMessage", times=3)
        sqs.send(of_email("ends-the-open-poll"))
        await running.receiver.failed.wait()
        assert not sqs.deleted
        updater.settle()
        await sqs.wait_until_empty()
    assert message_id in sqs.deleted


async def test_failed_deletes_are_not_failed_polls(sqs: SqsEndpoint) -> None:
    sqs.fail_next("DeleteMessageBatch", times=9)
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as running:
        for number in range(3):
            sqs.send(of_email(f"email-{number}"))
            await sqs.wait_for_calls("DeleteMessageBatch", 3 * number + 3)
        sqs.send(of_email("last"))
        await until(lambda: sqs.deleted)
        assert not running.receiver.failed.is_set()

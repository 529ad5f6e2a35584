# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Events from the queue: each is settled once, and a queue that does not answer is given up in time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest

from tests.stack import ses_events
from tests.stack.waiting import until
from tests.tracker.events.polling import Verdicts, logged, of_email, polling
from tests.tracker.examples import AT, EMAIL, TRACKING_ID, record
from tracker.events import poller as conductor
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
    ("body", "level"),
    [
        ("Successfully validated SNS topic for Amazon SES event publishing.", logging.WARNING),
        (ses_events.notification(ses_events.send(TRACKING_ID, AT)), logging.INFO),
        (ses_events.notification({"eventType": "Rendering Failure"}), logging.INFO),
        (
            '{"Type":"Notification","Message":"Successfully validated SNS topic for Amazon SES event publishing."}',
            logging.INFO,
        ),
        (
            ses_events.notification({"eventType": "Bounce", "mail": {"destination": ["a@example.com"]}}),
            logging.WARNING,
        ),
        ("{", logging.WARNING),
        ("null", logging.WARNING),
    ],
)
async def test_what_is_no_event_of_ours_is_deleted_with_one_line(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture, body: str, level: int
) -> None:
    caplog.set_level(logging.INFO, "tracker")
    updater = Verdicts(Verdict.SETTLED)
    message_id = sqs.send(body)
    async with polling(sqs, updater):
        await sqs.wait_until_empty()
    assert sqs.deleted == [message_id]
    assert not updater.asked
    assert [(one.message, one.levelno) for one in caplog.records] == [("event.ignored", level)]
    assert "@" not in str(vars(caplog.records[0]))


async def test_a_flood_of_what_is_no_event_is_no_flood_of_lines(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        sqs.send("{")
    async with polling(sqs, Verdicts(Verdict.SETTLED)):
        await sqs.wait_until_empty()
    assert len(sqs.deleted) == 100
    assert len(logged(caplog, "event.ignored")) == 20


async def test_a_message_of_a_record_that_cannot_be_read_is_left_to_the_queue(
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


async def test_a_thousand_messages_are_settled_by_several_receivers(sqs: SqsEndpoint) -> None:
    sent = [sqs.send(of_email(f"email-{number}")) for number in range(1000)]
    updater = Verdicts(Verdict.SETTLED)
    async with polling(sqs, updater, receivers=3):
        await sqs.wait_until_empty(20)
    assert sorted(sqs.deleted) == sorted(sent)
    assert len(updater.asked) == 1000


@pytest.mark.parametrize("receivers", [1, 2, 4, 8])
async def test_long_polls_leave_room_to_apply_what_one_of_them_brings(sqs: SqsEndpoint, receivers: int) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), receivers=receivers):
        for number in range(3):
            sqs.send(of_email(f"email-{number}"))
            await sqs.wait_until_empty(5)


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Back off for a moment only, except where the backoff is what is claimed."""
    if "backoff" not in request.node.name:
        monkeypatch.setattr(conductor, "LONGEST_BACKOFF_SECONDS", 0.01)


async def test_three_failures_in_a_row_with_a_growing_backoff_end_it(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    sqs.fail_next("ReceiveMessage", times=100)
    started = time.monotonic()
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as poller:
        await asyncio.wait_for(poller.failed.wait(), 10)
    assert time.monotonic() - started > 0.8 * (1 + 2)
    assert sqs.receives == 3
    assert [one["failures"] for one in logged(caplog, "queue.receive_failed")] == [1, 2, 3]
    assert len(logged(caplog, "queue.given_up")) == 1


async def test_answers_that_are_none_of_sqs_are_failures(sqs: SqsEndpoint) -> None:
    sqs.instead["ReceiveMessage"] = b"[]"
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as poller:
        await asyncio.wait_for(poller.failed.wait(), 10)


@pytest.mark.parametrize("failures", [1, 2])
async def test_fewer_failures_are_survived_and_forgotten(sqs: SqsEndpoint, failures: int) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), receivers=1) as poller:
        for number in range(3):
            sqs.fail_next("ReceiveMessage", times=failures)
            sqs.send(of_email(f"wakes-the-open-poll-{number}"))
            await sqs.wait_until_empty()
            sqs.send(of_email(f"email-{number}"))
            await sqs.wait_until_empty()
        assert not poller.failed.is_set()
    assert len(sqs.deleted) == 6


async def test_an_empty_poll_ends_a_row_of_failures(sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.events.sqs.LONG_POLL_SECONDS", 0)
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as poller:
        for _ in range(4):
            sqs.fail_next("ReceiveMessage", times=2)
            await sqs.wait_for_calls("ReceiveMessage", sqs.receives + 4)
        assert not poller.failed.is_set()


async def test_one_interruption_of_many_long_polls_is_one_failure(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), receivers=4) as poller:
        sqs.send(of_email())
        await sqs.wait_for_calls("ReceiveMessage", 5)
        await sqs.wait_until_empty()
        await until(lambda: sqs.open_connections >= 4)
        await sqs.stop()
        await until(lambda: logged(caplog, "queue.receive_failed"))
        await sqs.start()
        sqs.send(of_email("after"))
        await sqs.wait_until_empty()
        assert not poller.failed.is_set()


async def test_what_was_received_before_is_still_settled(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.UNMATCHED)
    message_id = sqs.send(of_email())
    async with polling(sqs, updater, receivers=1) as poller:
        await sqs.wait_for_calls("ReceiveMessage", 2)
        sqs.fail_next("ReceiveMessage", times=3)
        sqs.send(of_email("ends-the-open-poll"))
        await poller.failed.wait()
        assert not sqs.deleted
        updater.settle()
        await sqs.wait_until_empty()
    assert message_id in sqs.deleted


async def test_failed_deletes_are_no_failed_polls(sqs: SqsEndpoint) -> None:
    sqs.fail_next("DeleteMessageBatch", times=9)
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as poller:
        for number in range(3):
            sqs.send(of_email(f"email-{number}"))
            await sqs.wait_for_calls("DeleteMessageBatch", 3 * number + 3)
        sqs.send(of_email("last"))
        await until(lambda: sqs.deleted)
        assert not poller.failed.is_set()

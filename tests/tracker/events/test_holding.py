# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A message that waits for its record or for KV is held: it is received once, and not lost."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from tests.stack.waiting import until
from tests.tracker.events.polling import LONG_AGO, Verdicts, Watched, logged, of_email, polling, receives
from tests.tracker.examples import EMAIL, record, stored
from tracker.events import records, settlement
from tracker.events.backoff import Backoff
from tracker.events.record_updater import Verdict

if TYPE_CHECKING:
    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.record_updater import RecordUpdater

pytestmark = pytest.mark.usefixtures("hasty")


async def test_an_event_that_comes_before_its_record_waits_for_it(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater
) -> None:
    watched = Watched(updater)
    async with polling(sqs, watched):
        sqs.send(of_email())
        await watched.wait_until_asked(3)
        assert not sqs.deleted
        await recipients.create(EMAIL, records.encode(record()))
        await sqs.wait_until_empty()
    assert records.decode((await recipients.get(EMAIL)).value).delivered
    assert receives(sqs) == ["1"]


async def test_an_event_whose_record_never_comes_is_skipped_when_its_time_is_over(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tracker")
    sent_at = time.time()
    async with polling(sqs, updater, record_wait_seconds=1):
        sqs.send(of_email(sns_id="sns-id"), sent_at=sent_at)
        await sqs.wait_until_empty()
    assert time.time() - sent_at >= 1
    assert (await recipients.info()).state.last_seq == 0
    [line] = logged(caplog, "event.unmatched")
    assert (line["email_id"], line["kind"], line["event_id"]) == (EMAIL, "delivery", "sns-id")
    assert receives(sqs) == ["1"]


async def test_an_old_event_without_a_record_is_skipped_at_once(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.UNMATCHED)
    async with polling(sqs, updater):
        sqs.send(of_email(), sent_at=time.time() - LONG_AGO)
        await sqs.wait_until_empty()
    assert len(updater.asked) == 1


async def test_of_two_events_without_a_record_the_young_one_waits(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.UNMATCHED)
    old = sqs.send(of_email(sns_id="old"), sent_at=time.time() - LONG_AGO)
    young = sqs.send(of_email(sns_id="young"))
    async with polling(sqs, updater):
        await until(lambda: sqs.deleted)
        assert sqs.deleted == [old]
        await updater.wait_until_asked(2)
        assert [event.event_id for event in updater.asked[-1][1]] == ["young"]
        updater.settle()
        await sqs.wait_until_empty()
    assert sqs.deleted == [old, young]


async def test_a_held_event_does_not_hold_up_those_that_follow(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    async with polling(sqs, updater):
        sqs.send(of_email("held"))
        await until(lambda: sqs.in_flight)
        others = [sqs.send(of_email()) for _ in range(3)]
        await until(lambda: len(sqs.deleted) == 3)
        assert (sqs.visible, sqs.in_flight) == (0, 1)
    assert sorted(sqs.deleted) == sorted(others)


async def test_while_kv_is_away_a_message_of_any_age_is_held(
    sqs: SqsEndpoint,
    recipients: Bucket,
    updater: RecordUpdater,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    await connection.client.jetstream().delete_stream(f"KV_{recipients.name}")
    async with polling(sqs, updater, record_wait_seconds=0.1):
        sqs.send(of_email(), sent_at=time.time() - LONG_AGO)
        await until(lambda: len(logged(caplog, "event.postponed")) >= 3)
        assert (sqs.visible, sqs.in_flight) == (0, 1)
        await connection.client.jetstream().add_stream(
            name=f"KV_{recipients.name}", subjects=[f"$KV.{recipients.name}.>"], allow_direct=True
        )
        await connection.publish(f"$KV.{recipients.name}.{EMAIL}", stored())
        await sqs.wait_until_empty()
    assert records.decode((await recipients.get(EMAIL)).value).delivered
    assert receives(sqs) == ["1"]


async def test_while_kv_is_away_nothing_more_is_received(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.AGAIN)
    sqs.send(of_email("first"))
    async with polling(sqs, updater, long_polls=1):
        await updater.wait_until_asked(1)
        sqs.send(of_email("ends-the-open-poll"))
        await until(lambda: updater.asked[-1][0] == "ends-the-open-poll")
        sqs.send(of_email("stays"))
        await updater.wait_until_asked(len(updater.asked) + 3)
        assert (sqs.receives, sqs.visible) == (2, 1)
        updater.settle()
        await sqs.wait_until_empty()


async def test_a_contested_message_is_tried_again_while_others_are_received(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.CONTESTED, Verdict.CONTESTED, Verdict.SETTLED)
    contested = sqs.send(of_email("contested"))
    async with polling(sqs, updater):
        await updater.wait_until_asked(1)
        other = sqs.send(of_email("other"))
        await sqs.wait_until_empty()
    assert set(sqs.deleted) == {contested, other}
    assert set(receives(sqs)) == {"1"}


@pytest.mark.parametrize("verdict", [Verdict.AGAIN, None])
async def test_after_an_outage_of_kv_the_wait_for_a_record_starts_again(
    sqs: SqsEndpoint, verdict: Verdict | None
) -> None:
    """The relay could not write it either."""
    updater = Verdicts(*([verdict] if verdict else []), Verdict.UNMATCHED)
    async with polling(sqs, updater, record_wait_seconds=1) as running:
        if verdict is None:
            running.outage.suspect()
        sqs.send(of_email(), sent_at=time.time() - LONG_AGO)
        await sqs.wait_until_empty()
    assert updater.times[-1] - updater.times[0] >= 1
    assert receives(sqs) == ["1"]


@pytest.mark.parametrize("age", [0, LONG_AGO])
async def test_pauses_grow_while_kv_is_away_at_any_age_of_the_message(sqs: SqsEndpoint, age: float) -> None:
    updater = Verdicts(Verdict.AGAIN)
    sqs.send(of_email(), sent_at=time.time() - age)
    async with polling(sqs, updater):
        await updater.wait_until_asked(3)
    pauses = [later - sooner for sooner, later in zip(updater.times, updater.times[1:], strict=False)]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4


async def test_a_held_message_stays_invisible_beyond_its_timeout(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "VISIBILITY_SECONDS", 1)
    monkeypatch.setattr(settlement, "BACKOFF", Backoff(0.2, 0.2))
    updater = Verdicts(Verdict.AGAIN)
    sqs.send(of_email())
    async with polling(sqs, updater):
        await sqs.wait_for_calls("ChangeMessageVisibilityBatch", 3)
        assert sqs.in_flight == 1
        updater.settle()
        await sqs.wait_until_empty()
    assert receives(sqs) == ["1"]


async def test_a_held_message_that_is_stuck_is_left_to_the_queue(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.UNMATCHED, Verdict.STUCK)
    async with polling(sqs, updater) as running:
        sqs.send(of_email())
        await until(lambda: running.settlement.held)
        await updater.wait_until_asked(2)
        await until(lambda: not running.settlement.held)
        assert (sqs.in_flight, sqs.deleted) == (1, [])
    assert "ChangeMessageVisibilityBatch" not in sqs.calls


async def test_beyond_a_limit_unmatched_messages_go_back_to_the_queue(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "MAX_HELD", 1)
    updater = Verdicts(Verdict.UNMATCHED)
    async with polling(sqs, updater, record_wait_seconds=60):
        sqs.send(of_email("held"))
        await updater.wait_until_asked(1)
        sqs.send(of_email("released"))
        await sqs.wait_for_calls("ChangeMessageVisibilityBatch")
        [payload] = [call.payload for call in sqs.requests if call.action == "ChangeMessageVisibilityBatch"]
        assert [entry["VisibilityTimeout"] for entry in payload["Entries"]] == [60]

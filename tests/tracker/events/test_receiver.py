# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Several long polls receive at once, pause after failures, and end after three failures in a row."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.stack.waiting import until
from tests.tracker.events.polling import Verdicts, logged, of_email, polling
from tracker.events import receiver
from tracker.events.backoff import Backoff
from tracker.events.record_updater import Verdict

if TYPE_CHECKING:
    from tests.stack.sqs_endpoint import SqsEndpoint

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause only for a moment after a failure."""
    monkeypatch.setattr(receiver, "BACKOFF", Backoff(0.01, 0.01))


async def test_several_long_polls_receive_a_thousand_messages_once_each(sqs: SqsEndpoint) -> None:
    sent = [sqs.send(of_email(f"email-{number}")) for number in range(1000)]
    updater = Verdicts(Verdict.SETTLED)
    async with polling(sqs, updater, long_polls=3) as running:
        await sqs.wait_until_empty(20)
    assert sorted(sqs.deleted) == sorted(sent)
    assert len(updater.asked) == 1000
    assert running.receiver.batch_sizes.total == running.receiver.ages.count == 1000


@pytest.mark.parametrize("long_polls", [1, 2, 4, 8])
async def test_a_batch_is_settled_while_all_tasks_wait_in_long_polls(sqs: SqsEndpoint, long_polls: int) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), long_polls=long_polls):
        for number in range(3):
            sqs.send(of_email(f"email-{number}"))
            await sqs.wait_until_empty(5)


async def test_three_failures_in_a_row_with_growing_pauses_end_it(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    sqs.fail_next("ReceiveMessage", times=100)
    started = time.monotonic()
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as running:
        await asyncio.wait_for(running.receiver.failed.wait(), 20)
    assert time.monotonic() - started >= 1 + 2
    assert sqs.receives == 3
    assert [one["failures"] for one in logged(caplog, "queue.receive_failed")] == [1, 2, 3]
    assert len(logged(caplog, "queue.given_up")) == 1


@pytest.mark.usefixtures("short_pauses")
async def test_answers_that_do_not_come_from_sqs_are_failures(sqs: SqsEndpoint) -> None:
    sqs.instead["ReceiveMessage"] = b"[]"
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as running:
        await asyncio.wait_for(running.receiver.failed.wait(), 20)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("failures", [1, 2])
async def test_a_received_message_resets_the_count_of_failures(sqs: SqsEndpoint, failures: int) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), long_polls=1) as running:
        for number in range(3):
            sqs.fail_next("ReceiveMessage", times=failures)
            sqs.send(of_email(f"ends-the-open-poll-{number}"))
            await sqs.wait_until_empty()
            sqs.send(of_email(f"email-{number}"))
            await sqs.wait_until_empty()
        assert not running.receiver.failed.is_set()
    assert len(sqs.deleted) == 6


@pytest.mark.usefixtures("short_pauses")
async def test_an_empty_poll_resets_the_count_of_failures(sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.events.sqs.LONG_POLL_SECONDS", 0)
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as running:
        for _ in range(4):
            sqs.fail_next("ReceiveMessage", times=2)
            await sqs.wait_for_calls("ReceiveMessage", sqs.receives + 4)
        assert not running.receiver.failed.is_set()


@pytest.mark.usefixtures("short_pauses")
async def test_one_interruption_of_many_long_polls_is_one_failure(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), long_polls=4) as running:
        sqs.send(of_email())
        await sqs.wait_for_calls("ReceiveMessage", 5)
        await sqs.wait_until_empty()
        await until(lambda: sqs.open_connections >= 4)
        await sqs.stop()
        await until(lambda: logged(caplog, "queue.receive_failed"))
        await sqs.start()
        sqs.send(of_email("after"))
        await sqs.wait_until_empty()
        assert not running.receiver.failed.is_set()

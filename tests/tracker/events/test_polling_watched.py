# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Polling goes on after any error, or `failed` is set: it never ends unnoticed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack.few_threads import FewThreads
from tests.stack.waiting import until
from tests.tracker.events.polling import Slow, Verdicts, logged, of_email, polling
from tracker.events import receiver, settlement
from tracker.events.backoff import Backoff
from tracker.events.record_updater import Verdict
from tracker.events.sqs import Queue

if TYPE_CHECKING:
    from tests.stack.sqs_endpoint import SqsEndpoint

pytestmark = pytest.mark.usefixtures("hasty")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause only for a moment after a failure."""
    monkeypatch.setattr(receiver, "BACKOFF", Backoff(0.01, 0.01))
    monkeypatch.setattr(settlement, "BACKOFF", Backoff(0.01, 0.01))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the receiver fail after a second without a poll."""
    monkeypatch.setattr(receiver, "SILENT_SECONDS", 1.0)


def tasks_of(name: str) -> list[asyncio.Task[Any]]:
    """Return the running tasks of a coroutine function."""
    return [one for one in asyncio.all_tasks() if getattr(one.get_coro(), "__name__", "") == name]


@pytest.mark.usefixtures("impatient")
async def test_a_receiver_that_does_not_poll_for_long_fails(sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    updater = Slow(Verdict.SETTLED)
    async with polling(sqs, updater, long_polls=1) as running:
        sqs.send(of_email("first"))
        await until(lambda: sqs.in_flight == 1)
        sqs.send(of_email("second"))  # takes a slot of its own
        await asyncio.wait_for(running.receiver.failed.wait(), 20)
        updater.may_end.set()
    [line] = logged(caplog, "queue.not_polled")
    assert (line["error"], line["batches"]) == ("no poll for 1 s", 2)


@pytest.mark.usefixtures("impatient")
async def test_a_receiver_that_does_not_poll_while_kv_is_away_goes_on(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.AGAIN)
    sqs.send(of_email())
    async with polling(sqs, updater, long_polls=1) as running:
        await updater.wait_until_asked(1)
        sqs.send(of_email("ends-the-open-poll"))
        await until(lambda: "ends-the-open-poll" in updater.emails)
        began, polls = time.monotonic(), sqs.receives
        await until(lambda: time.monotonic() - began > 1.5)
        assert not running.receiver.failed.is_set()
        assert sqs.receives == polls
        updater.settle()
        await sqs.wait_until_empty()


@pytest.mark.usefixtures("impatient")
async def test_an_outage_that_nothing_reports_any_more_is_no_reason_not_to_poll(sqs: SqsEndpoint) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), long_polls=1) as running:
        await sqs.wait_for_calls("ReceiveMessage")
        running.outage.begin()
        await asyncio.wait_for(running.receiver.failed.wait(), 20)


@pytest.mark.parametrize("name", ["_poll", "_watch"])
async def test_the_death_of_a_task_of_the_receiver_is_a_failure(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED), long_polls=2) as running:
        await sqs.wait_for_calls("ReceiveMessage")
        tasks_of(name)[0].cancel()
        await asyncio.wait_for(running.receiver.failed.wait(), 20)
    assert [one["error"] for one in logged(caplog, "queue.not_polled")] == ["a task that polls has ended"]


async def test_a_stop_is_not_a_failure(sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as running:
        await sqs.wait_for_calls("ReceiveMessage")
    assert not running.receiver.failed.is_set()
    assert not logged(caplog, "queue.not_polled")
    await until(lambda: not [*tasks_of("_poll"), *tasks_of("_watch")])


async def test_without_threads_polling_ends_after_three_tries_that_name_the_limit(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FewThreads(monkeypatch)
    async with polling(sqs, Verdicts(Verdict.SETTLED)) as running:
        await asyncio.wait_for(running.receiver.failed.wait(), 20)
    lines = logged(caplog, "queue.receive_failed")
    assert [one["failures"] for one in lines] == [1, 2, 3]
    assert "can't start new thread: raise the limit of threads" in lines[0]["error"]
    assert len(logged(caplog, "queue.given_up")) == 1


async def test_polling_goes_on_when_threads_can_be_started_again(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receiver, "MAX_FAILURES", 1_000_000)
    threads = FewThreads(monkeypatch)
    sqs.send(of_email())
    async with polling(sqs, Verdicts(Verdict.SETTLED)):
        await until(lambda: logged(caplog, "queue.receive_failed"))
        threads.are_allowed = True
        await sqs.wait_until_empty()


@pytest.mark.parametrize("call", ["delete", "change_visibility"])
async def test_messages_that_no_thread_can_settle_come_again(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    threads = FewThreads(monkeypatch)
    queue = Queue(sqs.queue_url, {}, visibility_seconds=60)
    threads.are_allowed = True
    sqs.send(of_email())
    messages = await queue.receive()
    threads.are_allowed = False
    queue = Queue(sqs.queue_url, {}, visibility_seconds=60)  # without a thread that it has kept
    await (queue.delete(messages) if call == "delete" else queue.change_visibility(messages, 0))
    assert sqs.in_flight == 1


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), KeyError("unforeseen"), MemoryError()])
async def test_an_error_that_no_code_expects_is_one_failure(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    receive, errors = Queue.receive, [error, error]

    async def fail_first(queue: Queue) -> Any:
        if errors:
            raise errors.pop()
        return await receive(queue)

    monkeypatch.setattr(Queue, "receive", fail_first)
    sqs.send(of_email())
    async with polling(sqs, Verdicts(Verdict.SETTLED), long_polls=1) as running:
        await sqs.wait_until_empty()
        assert not running.receiver.failed.is_set()
    lines = logged(caplog, "queue.receive_failed")
    assert [(one["failures"], one["exc_info"][1]) for one in lines] == [(1, error), (2, error)]


async def test_the_outage_ends_with_a_holder_that_is_cancelled(sqs: SqsEndpoint) -> None:
    sqs.send(of_email())
    async with polling(sqs, Verdicts(Verdict.AGAIN), long_polls=1) as running:
        holders = await until(lambda: tasks_of("_try_again"))
        holders[0].cancel()
        await until(lambda: not running.settlement.held)
        assert running.outage.is_over.is_set()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""When the tracker stops, it finishes the events being applied and releases all other messages at once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from shared.kv.setup import create_missing
from tests.stack.waiting import until
from tests.tracker.events.polling import Slow, Verdicts, of_email, polling
from tests.tracker.examples import EMAIL, record
from tracker.events import records
from tracker.events.record_updater import Verdict

if TYPE_CHECKING:
    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.record_updater import RecordUpdater


@pytest.mark.parametrize("verdict", [Verdict.UNMATCHED, Verdict.AGAIN])
async def test_held_messages_are_visible_at_once(sqs: SqsEndpoint, verdict: Verdict) -> None:
    updater = Verdicts(verdict)
    for number in range(12):
        sqs.send(of_email(f"email-{number}"))
    async with polling(sqs, updater):
        await until(lambda: len(updater.emails) == 12)
        assert sqs.in_flight == 12
    assert (sqs.visible, sqs.in_flight) == (12, 0)


@pytest.mark.usefixtures("hasty")
async def test_events_being_applied_are_finished(sqs: SqsEndpoint) -> None:
    updater = Slow(Verdict.SETTLED)
    sqs.send(of_email())
    async with polling(sqs, updater):
        await updater.begun.wait()
        asyncio.get_running_loop().call_later(0.2, updater.may_end.set)
    assert len(sqs.deleted) == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("grace_seconds", "deleted"), [(10, 1), (0, 0)])
async def test_events_being_applied_have_some_time_after_a_stop_is_cut_off(
    sqs: SqsEndpoint, grace_seconds: float, deleted: int
) -> None:
    updater = Slow(Verdict.SETTLED)
    stopping = asyncio.Event()

    async def run() -> None:
        async with polling(sqs, updater, grace_seconds=grace_seconds):
            await updater.begun.wait()
            stopping.set()

    sqs.send(of_email())
    running = asyncio.create_task(run())
    await stopping.wait()
    asyncio.get_running_loop().call_later(0.1, running.cancel)
    asyncio.get_running_loop().call_later(0.3, updater.may_end.set)
    await asyncio.wait({running})
    assert running.cancelled()
    assert len(sqs.deleted) == deleted


@pytest.mark.parametrize("verdict", [Verdict.UNMATCHED, Verdict.AGAIN, Verdict.CONTESTED])
async def test_a_message_that_would_be_held_is_released(sqs: SqsEndpoint, verdict: Verdict) -> None:
    updater = Slow(verdict)
    sqs.send(of_email())
    async with polling(sqs, updater):
        await updater.begun.wait()
        asyncio.get_running_loop().call_later(0.2, updater.may_end.set)
    assert (sqs.visible, sqs.in_flight) == (1, 0)


async def test_a_message_that_the_last_poll_receives_is_visible_at_once(sqs: SqsEndpoint) -> None:
    updater = Verdicts(Verdict.SETTLED)
    async with polling(sqs, updater):
        await sqs.wait_for_calls("ReceiveMessage")
        asyncio.get_running_loop().call_later(0.5, sqs.send, of_email())
    assert (sqs.visible, sqs.in_flight) == (1, 0)
    assert not updater.asked
    assert sqs.receives == 1


async def test_a_stop_does_not_wait_for_an_empty_poll(sqs: SqsEndpoint) -> None:
    async with polling(sqs, Verdicts(Verdict.SETTLED)):
        await sqs.wait_for_calls("ReceiveMessage")
        started = time.monotonic()
    assert time.monotonic() - started < 15


async def test_a_stop_while_kv_is_away_releases_the_messages(
    sqs: SqsEndpoint, recipients: Bucket, updater: RecordUpdater, connection: Connection
) -> None:
    await connection.client.jetstream().delete_stream(f"KV_{recipients.name}")
    async with polling(sqs, updater):
        sqs.send(of_email())
        await until(lambda: sqs.in_flight)
    assert (sqs.visible, sqs.in_flight) == (1, 0)
    await create_missing(connection, [recipients.name])
    await recipients.create(EMAIL, records.encode(record()))
    async with polling(sqs, updater):
        await sqs.wait_until_empty()
    assert records.decode((await recipients.get(EMAIL)).value).delivered

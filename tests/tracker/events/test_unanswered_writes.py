# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An event whose write was not answered is published once: by the tracker whose write was stored."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

import shared.nats.inbox
from shared.kv.bucket import Bucket
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy
from tests.stack.waiting import until
from tests.tracker.events.polling import of_email, polling
from tests.tracker.examples import EMAIL, event, record
from tracker.events import record_updater, records
from tracker.events.push_events import PushEvents
from tracker.events.record_updater import RecordUpdater, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint

SHORT_SECONDS = 0.4  # also for writes that must succeed on a busy machine
WRITE = "$KV."
A, B = event("open", 1, "a"), event("open", 2, "b")


class Trackers(NamedTuple):
    """Two updaters, the first one behind a proxy, and the push events of both."""

    proxy: NatsProxy
    first: RecordUpdater
    second: RecordUpdater
    connections: list[Connection]
    pushed: list[Msg]
    recipients: Bucket

    async def counts(self) -> list[int]:
        """Return the `open_count` of each push event so far."""
        for connection in self.connections:  # those that publish first
            await connection.flush()
        return [json.loads(msg.data)["open_count"] for msg in self.pushed]

    async def opens(self) -> int:
        """Return the count of opens in the record."""
        return records.decode((await self.recipients.get(EMAIL)).value).open_count


@asynccontextmanager
async def updater_at(url: str) -> AsyncIterator[tuple[Connection, RecordUpdater]]:
    """An updater with its own connection."""
    async with (
        nats_connection.opened(ProcessSettings(nats_url=url), "tracker") as connection,
        Inbox(connection) as inbox,
    ):
        bucket = Bucket(inbox, connection, "email-recipients")
        await bucket.info()  # so that the next request is the read of a record
        yield connection, RecordUpdater(bucket, PushEvents(connection))


@pytest.fixture
async def trackers(
    recipients: Bucket, nats: NatsServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Trackers]:
    """Both updaters, and the record of an email without events; answers are waited for only shortly."""
    await recipients.create(EMAIL, records.encode(record()))
    pushed: list[Msg] = []
    await connection.subscribe("lfx.email-service.*", pushed.append)
    await connection.flush()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(nats_proxy.running(nats.url))
        by_proxy, first = await stack.enter_async_context(updater_at(proxy.url))
        directly, second = await stack.enter_async_context(updater_at(nats.url))
        monkeypatch.setattr(shared.nats.inbox, "TIMEOUT_SECONDS", SHORT_SECONDS)
        yield Trackers(proxy, first, second, [by_proxy, directly, connection], pushed, recipients)


async def test_it_is_published_at_the_next_try_and_never_again(trackers: Trackers) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert await trackers.counts() == []
    applied = await trackers.first.apply(EMAIL, [A])
    assert (applied.verdict, applied.new, applied.duplicates) == (Verdict.SETTLED, 1, 0)
    assert (await trackers.first.apply(EMAIL, [A])).duplicates == 1
    assert await trackers.counts() == [1]
    assert trackers.first.outcomes == {("open", "applied"): 1, ("open", "duplicate"): 1}


async def test_a_garbled_answer_is_as_none(trackers: Trackers) -> None:
    trackers.proxy.garble_reply(WRITE, 1, b"{}")
    assert (await trackers.first.apply(EMAIL, [A, B])).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A, B])).new == 2
    assert await trackers.counts() == [1, 2]


async def test_a_write_that_was_lost_is_written_and_published_once(trackers: Trackers) -> None:
    trackers.proxy.lose_request(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    await trackers.first.apply(EMAIL, [A])
    assert await trackers.counts() == [1]


async def test_what_another_tracker_has_applied_meanwhile_is_published_by_it_alone(trackers: Trackers) -> None:
    trackers.proxy.lose_request(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.second.apply(EMAIL, [A])).new == 1
    assert (await trackers.first.apply(EMAIL, [A])).duplicates == 1
    assert await trackers.counts() == [1]


async def test_what_another_tracker_takes_for_a_duplicate_is_published(trackers: Trackers) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.second.apply(EMAIL, [A, B])).duplicates == 1
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    assert sorted(await trackers.counts()) == [1, 2]


async def test_a_write_that_is_stored_late_is_published_once(trackers: Trackers) -> None:
    trackers.proxy.delay_request(WRITE, 1, 3 * SHORT_SECONDS)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    await until(lambda: not trackers.proxy.delayed)
    await until(trackers.opens, lambda count: count == 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.SETTLED
    assert await trackers.counts() == [1]


async def test_a_late_write_that_the_next_try_has_overtaken_is_published_once(trackers: Trackers) -> None:
    trackers.proxy.delay_request(WRITE, 1, 3 * SHORT_SECONDS)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    await until(lambda: not trackers.proxy.delayed)
    await trackers.first.apply(EMAIL, [A, B])
    assert await trackers.counts() == [1, 2]


async def test_events_of_one_email_in_two_batches_are_published_once_each(trackers: Trackers) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [B])).new == 1
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.SETTLED
    assert await trackers.counts() == [1, 2]


async def test_a_write_that_another_batch_builds_on_before_its_answer_is_missed_is_published(
    trackers: Trackers,
) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    unanswered = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(trackers.opens, lambda count: count == 1)
    assert (await trackers.first.apply(EMAIL, [A, B])).duplicates == 1
    assert (await unanswered).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    assert (await trackers.first.apply(EMAIL, [A])).duplicates == 1
    assert sorted(await trackers.counts()) == [1, 2]


async def test_a_write_whose_answer_is_missed_while_another_batch_builds_on_it_is_published(
    trackers: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    unanswered = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(trackers.opens, lambda count: count == 1)
    monkeypatch.setattr(shared.nats.inbox, "TIMEOUT_SECONDS", 20.0)  # of what is asked from now on
    trackers.proxy.delay_reply(WRITE, 1, SHORT_SECONDS * 2)
    building_on = asyncio.create_task(trackers.first.apply(EMAIL, [B]))
    assert (await unanswered).verdict is Verdict.AGAIN
    assert (await building_on).new == 1
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    assert sorted(await trackers.counts()) == [1, 2]


async def test_a_lost_write_whose_revision_another_tracker_has_replaced_is_not_published_again(
    trackers: Trackers,
) -> None:
    trackers.proxy.lose_request(WRITE, 1)
    unanswered = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(lambda: any(one.startswith(WRITE) for one in trackers.proxy.published))
    assert (await trackers.second.apply(EMAIL, [A])).new == 1
    assert (await trackers.first.apply(EMAIL, [B])).new == 1
    assert (await unanswered).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A])).duplicates == 1
    assert sorted(await trackers.counts()) == [1, 2]


async def test_two_unanswered_tries_publish_once(trackers: Trackers) -> None:
    trackers.proxy.lose_request(WRITE, 1)
    trackers.proxy.lose_reply(WRITE, 1)
    for _ in range(2):
        assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    assert await trackers.counts() == [1]


async def test_an_event_whose_read_fails_after_the_unanswered_write_is_still_published(trackers: Trackers) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    trackers.proxy.lose_reply("$JS.API.", 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.first.apply(EMAIL, [A])).new == 1
    assert await trackers.counts() == [1]


async def test_a_cancelled_write_that_was_stored_is_published_at_the_stop(trackers: Trackers) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    applying = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(trackers.opens, lambda count: count == 1)
    applying.cancel()
    await asyncio.wait({applying})
    assert applying.cancelled()
    assert (await trackers.second.apply(EMAIL, [A])).duplicates == 1
    await trackers.first.finish()
    await trackers.first.finish()
    assert await trackers.counts() == [1]


async def test_a_cancelled_write_that_is_stored_during_the_stop_is_published(trackers: Trackers) -> None:
    trackers.proxy.delay_request(WRITE, 1, SHORT_SECONDS / 2)
    applying = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(lambda: trackers.proxy.delayed)
    applying.cancel()
    await asyncio.wait({applying})
    await trackers.first.finish()
    assert await trackers.counts() == [1]


async def test_a_cancelled_write_that_another_tracker_has_replaced_is_not_published_at_the_stop(
    trackers: Trackers,
) -> None:
    trackers.proxy.lose_request(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    await trackers.second.apply(EMAIL, [A])
    await trackers.first.finish()
    assert await trackers.counts() == [1]


async def test_a_write_that_a_stop_cuts_off_is_published_if_kv_is_too_slow_to_show_it(trackers: Trackers) -> None:
    trackers.proxy.delay_reply(WRITE, 1, 3 * SHORT_SECONDS)
    trackers.proxy.lose_reply("$JS.API.STREAM.MSG.GET.", 10)
    applying = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(trackers.opens, lambda count: count == 1)
    applying.cancel()
    await asyncio.wait({applying})
    await trackers.first.close(0.05)
    assert await trackers.counts() == [1]


async def test_a_write_that_a_stop_cuts_off_is_not_published_if_kv_shows_that_it_is_not_stored(
    trackers: Trackers,
) -> None:
    trackers.proxy.lose_request(WRITE, 1)
    applying = asyncio.create_task(trackers.first.apply(EMAIL, [A]))
    await until(lambda: any(one.startswith(WRITE) for one in trackers.proxy.published))
    applying.cancel()
    await asyncio.wait({applying})
    await trackers.first.close(SHORT_SECONDS)
    assert await trackers.counts() == []
    assert (await trackers.second.apply(EMAIL, [A])).new == 1
    assert await trackers.counts() == [1]


async def test_after_the_end_of_writes_an_event_waits_for_the_next_tracker(trackers: Trackers) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    trackers.first.end_writes()
    assert (await trackers.first.apply(EMAIL, [B])).verdict is Verdict.CONTESTED
    assert await trackers.counts() == [1], "what was written is known by the read"
    assert (await trackers.second.apply(EMAIL, [B])).new == 1


async def test_a_stored_event_is_published_without_another_try_if_another_tracker_has_its_message(
    trackers: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_updater, "WATCH_SECONDS", 0.05)
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    assert (await trackers.second.apply(EMAIL, [A])).duplicates == 1
    watching = asyncio.create_task(trackers.first.watch())
    await until(trackers.counts, bool)
    watching.cancel()
    await trackers.first.finish()
    assert await trackers.counts() == [1]


async def test_an_unexpected_error_does_not_end_the_watch(
    trackers: Trackers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(record_updater, "WATCH_SECONDS", 0.05)
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    with monkeypatch.context() as patched:
        patched.setattr(trackers.first._unanswered, "decide", lambda *_: 1 / 0)  # noqa: SLF001 - no input does it
        watching = asyncio.create_task(trackers.first.watch())
        await until(lambda: "event.failed" in caplog.messages)
    await until(trackers.counts, bool)
    watching.cancel()
    assert await trackers.counts() == [1]


async def test_a_stop_without_kv_ends_in_time(trackers: Trackers, caplog: pytest.LogCaptureFixture) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    assert (await trackers.first.apply(EMAIL, [A])).verdict is Verdict.AGAIN
    await trackers.proxy.stop()
    async with asyncio.timeout(20):
        await trackers.first.close(0.1)
    assert any(one.message == "event.unannounced" for one in caplog.records)
    assert await trackers.counts() == []


async def test_a_stopping_receiver_publishes_what_was_stored_before_it_releases_the_message(
    trackers: Trackers, sqs: SqsEndpoint
) -> None:
    trackers.proxy.lose_reply(WRITE, 1)
    sqs.send(of_email())
    async with polling(sqs, trackers.first, long_polls=1) as running:
        await until(lambda: running.settlement.held)
    assert [msg.subject for msg in trackers.pushed] == ["lfx.email-service.email_delivered"]
    assert sqs.visible == 1

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""With PUSH_EVENTS_DURABLE=true an event is in the stream before its message is deleted."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import DiscardPolicy, KeyValueConfig

import shared.nats.inbox
from shared import contract
from shared.errors import StoreUnavailable
from shared.kv.bucket import Bucket
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy
from tests.stack.waiting import until
from tests.tracker.events.polling import logged, of_email, polling, receives
from tests.tracker.examples import EMAIL, GROUP, event, record
from tracker.events import records, settlement, stream_gate
from tracker.events.backoff import Backoff
from tracker.events.durable_push_events import DurablePushEvents
from tracker.events.push_events import publish_nothing
from tracker.events.record_updater import RecordUpdater, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.ses_event import EngagementEvent

STREAM = contract.PUSH_EVENTS_STREAM
SERVICE = "lfx.email-service."
SHORT_SECONDS = 0.4  # also for writes that must succeed on a busy machine
A, B = event("open", 1, "a"), event("open", 2, "b")

pytestmark = pytest.mark.usefixtures("hasty")


class Durable:
    """An updater behind a proxy, its counters, the stream, and what a plain subscriber gets."""

    def __init__(
        self, updater: RecordUpdater, pushes: DurablePushEvents, proxy: NatsProxy, js: JetStreamContext
    ) -> None:
        self.updater = updater
        self.outcomes = pushes.outcomes
        self.proxy = proxy
        self.js = js
        self.plain: list[Msg] = []

    async def apply(self, *events: EngagementEvent) -> Verdict:
        """Apply events of the email."""
        return (await self.updater.apply(EMAIL, events)).verdict

    async def create_stream(self, **limits: Any) -> None:
        """Create the stream as the chart does, with limits."""
        await self.js.add_stream(
            name=STREAM, subjects=list(contract.PUSH_EVENT_SUBJECTS), duplicate_window=600, **limits
        )

    async def ids(self) -> list[str]:
        """Return the ids of the messages in the stream."""
        state = (await self.js.stream_info(STREAM)).state
        found = [
            await self.js.get_msg(STREAM, number)
            for number in range(state.last_seq - state.messages + 1, state.last_seq + 1)
        ]
        return [(msg.headers or {})[contract.MESSAGE_ID_HEADER] for msg in found]


@asynccontextmanager
async def durable_updater(url: str) -> AsyncIterator[tuple[RecordUpdater, DurablePushEvents]]:
    """An updater with its own connection."""
    async with (
        nats_connection.opened(ProcessSettings(nats_url=url), "tracker") as connection,
        Inbox(connection) as inbox,
    ):
        bucket = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
        await bucket.info()  # so that the next request is the read of a record
        pushes = DurablePushEvents(inbox)
        yield RecordUpdater(bucket, publish_nothing, confirm=pushes), pushes


@pytest.fixture
async def durable(
    recipients: Bucket, nats: NatsServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Durable]:
    """A tracker's part without a stream; answers are waited for only shortly, and the stream is looked at often."""
    await recipients.create(EMAIL, records.encode(record()))
    async with nats_proxy.running(nats.url) as proxy, durable_updater(proxy.url) as (updater, pushes):
        monkeypatch.setattr(shared.nats.inbox, "TIMEOUT_SECONDS", SHORT_SECONDS)
        monkeypatch.setattr(stream_gate, "LOOK_AGAIN_SECONDS", 0.0)
        monkeypatch.setattr(settlement, "BACKOFF", Backoff(0.05, 0.05))
        durable = Durable(updater, pushes, proxy, connection.client.jetstream())
        await connection.subscribe(SERVICE + "*", durable.plain.append)
        await connection.flush()
        yield durable


async def test_each_event_is_in_the_stream_when_it_is_settled(durable: Durable) -> None:
    await durable.create_stream()
    assert (
        await durable.apply(A, event("click", 3, "c", link="https://lfx.dev"), event("delivery", 1, "d"))
        is Verdict.SETTLED
    )
    assert sorted(await durable.ids()) == [f"{EMAIL}/click/c", f"{EMAIL}/delivery/d", f"{EMAIL}/open/a"]
    msg = await durable.js.get_last_msg(STREAM, contract.EMAIL_OPENED_SUBJECT)
    assert json.loads(msg.data or b"") == {
        "email_id": EMAIL,
        "group_id": GROUP,
        "open_count": 1,
        "opened_at": "2026-01-02T03:04:06Z",
    }
    assert durable.outcomes == {"published": 3, "duplicate": 0, "failed": 0}
    assert len(durable.plain) == 3


async def test_a_redelivered_event_is_published_again_and_is_in_the_stream_once(
    durable: Durable, nats: NatsServer
) -> None:
    await durable.create_stream()
    assert await durable.apply(A) is Verdict.SETTLED
    assert await durable.apply(A, A) is Verdict.SETTLED
    async with durable_updater(nats.url) as (other, pushes):
        assert (await other.apply(EMAIL, [A])).verdict is Verdict.SETTLED
    assert (durable.outcomes["duplicate"], pushes.outcomes["duplicate"]) == (1, 1)
    assert await durable.ids() == [f"{EMAIL}/open/a"]


async def test_an_event_that_a_killed_tracker_wrote_and_did_not_publish_is_published(
    durable: Durable, recipients: Bucket
) -> None:
    await durable.create_stream()
    await RecordUpdater(recipients, publish_nothing).apply(EMAIL, [A])
    assert await durable.apply(A) is Verdict.SETTLED
    assert await durable.ids() == [f"{EMAIL}/open/a"]


async def test_a_deleted_stream_is_waited_for_although_a_subscriber_gets_the_events(
    durable: Durable, recipients: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    assert await durable.apply(A) is Verdict.UNPUBLISHED
    written = (await recipients.get(EMAIL)).revision
    for _ in range(3):
        assert await durable.apply(A) is Verdict.UNPUBLISHED
    assert len(durable.plain) == 1, "a stream that is missing is not tried by publishing"
    await durable.create_stream()
    assert await durable.apply(A) is Verdict.SETTLED
    assert await durable.ids() == [f"{EMAIL}/open/a"]
    assert (await recipients.get(EMAIL)).revision == written
    assert durable.updater.outcomes == {("open", "applied"): 1}
    assert logged(caplog, "event.unacknowledged")


async def test_a_full_stream_is_tried_again_when_it_has_changed(durable: Durable) -> None:
    await durable.create_stream(max_msgs=1, discard=DiscardPolicy.NEW)
    assert await durable.apply(A) is Verdict.SETTLED
    for _ in range(6):
        assert await durable.apply(B) is Verdict.UNPUBLISHED
    assert len(durable.plain) == 3, "the first try, and one after a look at the stream"
    await durable.js.purge_stream(STREAM)
    assert await durable.apply(B) is Verdict.SETTLED
    assert await durable.ids() == [f"{EMAIL}/open/b"]


async def test_a_full_stream_that_shows_no_change_is_tried_again_after_a_while(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_gate, "UNCHANGED_SECONDS", 0.0)
    await durable.create_stream(max_msgs=1, discard=DiscardPolicy.NEW)
    assert await durable.apply(A) is Verdict.SETTLED
    for _ in range(3):
        assert await durable.apply(B) is Verdict.UNPUBLISHED
    assert len(durable.plain) == 4


@pytest.mark.parametrize("fault", ["lose", "garble", "503"])
async def test_an_event_without_an_acknowledgement_is_published_again(durable: Durable, fault: str) -> None:
    await durable.create_stream()
    match fault:
        case "lose":
            durable.proxy.lose_reply(SERVICE, 1)
        case "garble":
            durable.proxy.garble_reply(SERVICE, 1, b'{"stream":"email-events"')
        case "503":
            durable.proxy.answer(SERVICE, 1, nats_proxy.no_responders())
    assert await durable.apply(A) is Verdict.UNPUBLISHED
    assert await durable.apply(A) is Verdict.SETTLED
    assert await durable.ids() == [f"{EMAIL}/open/a"]


async def test_a_stream_without_a_leader_is_waited_for(durable: Durable) -> None:
    await durable.create_stream()
    durable.proxy.lose_request(SERVICE, 1)
    durable.proxy.lose_request("$JS.API.STREAM.INFO.email-events", 2)
    for _ in range(3):
        assert await durable.apply(A) is Verdict.UNPUBLISHED
    assert durable.plain == []
    await until(partial(durable.apply, A), lambda verdict: verdict is Verdict.SETTLED)
    assert await durable.ids() == [f"{EMAIL}/open/a"]


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}},
        {"error": {"code": 503, "err_code": 10023, "description": "insufficient resources"}},
        {"error": {"code": 500, "err_code": 10047, "description": "insufficient storage resources available"}},
        {"error": {"code": 400, "err_code": 10060, "description": "expected stream does not match"}},
    ],
    ids=lambda answer: str(answer["error"]["err_code"]),
)
async def test_each_error_of_the_stream_is_waited_for(durable: Durable, answer: dict[str, Any]) -> None:
    await durable.create_stream()
    error = answer["error"]
    durable.proxy.answer(SERVICE, 1, nats_proxy.js_error(error["code"], error["err_code"], error["description"]))
    assert await durable.apply(A) is Verdict.UNPUBLISHED
    assert await durable.apply(A) is Verdict.SETTLED


async def test_a_subscriber_that_replies_is_not_taken_for_the_stream(durable: Durable, connection: Connection) -> None:
    async def reply(msg: Msg) -> None:
        for answer in (b"ok", b"{}", b'{"stream":"other","seq":1}', b'{"error":"unknown event"}'):
            await msg.respond(answer)

    await connection.client.subscribe(SERVICE + "*", cb=reply)
    await connection.flush()
    assert await durable.apply(A) is Verdict.UNPUBLISHED
    await durable.create_stream()
    assert await durable.apply(A) is Verdict.SETTLED
    assert await durable.ids() == [f"{EMAIL}/open/a"]


async def test_a_stream_of_another_name_does_not_count(durable: Durable) -> None:
    await durable.js.add_stream(name="others", subjects=list(contract.PUSH_EVENT_SUBJECTS))
    assert await durable.apply(A) is Verdict.UNPUBLISHED
    assert (await durable.js.stream_info("others")).state.messages == 0


async def test_an_event_that_the_stream_can_never_store_is_left_to_the_queue(
    durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    await durable.create_stream(max_msg_size=50)
    assert await durable.apply(A) is Verdict.STUCK
    assert [line["levelname"] for line in logged(caplog, "event.unannounced")] == ["ERROR"]


async def test_events_of_a_full_record_are_published(durable: Durable) -> None:
    await durable.create_stream()
    await durable.js.delete_stream(f"KV_{contract.EMAIL_RECIPIENTS_BUCKET}")
    small = KeyValueConfig(contract.EMAIL_RECIPIENTS_BUCKET, history=1, direct=True, max_value_size=400)
    bucket = await durable.js.create_key_value(small)
    await bucket.put(EMAIL, records.encode(record()))
    await durable.apply(A)  # learns the limit
    assert await durable.apply(A) is Verdict.SETTLED
    assert await durable.ids() == [f"{EMAIL}/open/a"]


async def test_an_event_without_a_record_is_not_published(durable: Durable) -> None:
    await durable.create_stream()
    assert (await durable.updater.apply("unknown", [A])).verdict is Verdict.UNMATCHED
    assert await durable.ids() == []


async def test_the_events_of_a_batch_wait_together(durable: Durable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.nats.inbox, "TIMEOUT_SECONDS", 60)
    await durable.create_stream()
    durable.proxy.delay_reply(SERVICE, 20, 0.5)
    started = time.monotonic()
    await durable.apply(*(event("open", number, str(number)) for number in range(20)))
    assert time.monotonic() - started < 20 * 0.5


async def test_an_event_is_published_after_its_address_is_suppressed(
    durable: Durable, recipients: Bucket, inbox: Inbox
) -> None:
    await durable.create_stream()
    failing = [StoreUnavailable("away")]

    async def suppress(_events: Sequence[EngagementEvent], _to: str) -> int:
        if failing:
            raise failing.pop()
        return 1

    updater = RecordUpdater(recipients, publish_nothing, suppress, DurablePushEvents(inbox))
    bounce = event("bounce", 1, "x")
    assert (await updater.apply(EMAIL, [bounce])).verdict is Verdict.CONTESTED
    assert durable.plain == []
    assert (await updater.apply(EMAIL, [bounce])).suppressed == 1
    assert await durable.ids() == [f"{EMAIL}/bounce/x"]


async def test_without_the_stream_messages_stay_in_the_queue_and_go_on_when_it_is_back(
    durable: Durable, recipients: Bucket, sqs: SqsEndpoint
) -> None:
    for number in range(12):
        await recipients.create(f"email-{number}", records.encode(record(email_id=f"email-{number}")))
        sqs.send(of_email(f"email-{number}", f"sns-{number}"))
    async with polling(sqs, durable.updater, long_polls=1) as running:
        await until(lambda: running.settlement.held)
        await until(lambda: not running.outage.is_over.is_set())
        received = sqs.receives
        stays = sqs.send(of_email("email-0", "later"))
        await until(lambda: durable.proxy.published.count(f"$JS.API.STREAM.INFO.{STREAM}") >= 5)
        assert (sqs.deleted, sqs.receives - received <= 1) == ([], True)
        await durable.create_stream()
        await sqs.wait_until_empty()
        assert stays in sqs.deleted
    assert set(receives(sqs)) == {"1"}
    assert len(await durable.ids()) == 13


async def test_a_stop_without_the_stream_releases_the_messages(durable: Durable, sqs: SqsEndpoint) -> None:
    sqs.send(of_email())
    async with polling(sqs, durable.updater, long_polls=1) as running:
        await until(lambda: running.settlement.held)
    assert (sqs.visible, sqs.in_flight) == (1, 0)
    await durable.create_stream()
    async with polling(sqs, durable.updater):
        await sqs.wait_until_empty()
    assert len(await durable.ids()) == 1


async def test_an_unmatched_event_does_not_end_the_wait_for_the_stream(durable: Durable, sqs: SqsEndpoint) -> None:
    sqs.send(of_email("unknown"))
    async with polling(sqs, durable.updater, long_polls=1) as running:
        await until(lambda: running.settlement.held)
        sqs.send(of_email())
        await until(lambda: running.settlement.held == 2)
        await until(lambda: not running.outage.is_over.is_set())
        reads = len(durable.proxy.published)
        await until(lambda: len(durable.proxy.published) > reads + 10)
        assert not running.outage.is_over.is_set()
        await durable.create_stream()
        await running.outage.is_over.wait()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Events are written to a bucket on a real server: none is lost, none is written twice, and the verdict is right."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from nats.js.api import KeyValueConfig

import shared.nats.inbox
from shared import contract
from shared.contract import Failure
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.nats.inbox import HEADER_ROOM_BYTES, Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy, ses_events
from tests.tracker.examples import AT, EMAIL, GROUP, TO, TRACKING_ID, event, record, stored
from tracker.events import records, ses_event
from tracker.events.push_events import PushEvents
from tracker.events.record_updater import RecordUpdater, Verdict
from tracker.events.ses_event import EngagementEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.msg import Msg

    from shared.contract import EmailRecipientRecord
    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer
    from tracker.events.ses_event import Kind

MAX_RECORD_BYTES = 65_536  # the Go service's chart
KEY = f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}.{EMAIL}"


@asynccontextmanager
async def another(url: str) -> AsyncIterator[RecordUpdater]:
    """An updater with its own connection, as in another replica."""
    async with (
        nats_connection.opened(ProcessSettings(nats_url=url), "another") as connection,
        Inbox(connection) as inbox,
    ):
        recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
        yield RecordUpdater(recipients, PushEvents(connection))


async def held(recipients: Bucket) -> EmailRecipientRecord:
    return records.decode((await recipients.get_from_leader(EMAIL)).value)


async def revision(recipients: Bucket) -> int:
    return (await recipients.get_from_leader(EMAIL)).revision


async def create_small_bucket(connection: Connection, max_bytes: int) -> None:
    """Create the bucket with a limit for its values, as a chart does."""
    config = KeyValueConfig(bucket=contract.EMAIL_RECIPIENTS_BUCKET, history=1, direct=True, max_value_size=max_bytes)
    await connection.client.jetstream().create_key_value(config)


async def delete_bucket(connection: Connection) -> None:
    await connection.client.jetstream().delete_stream(f"KV_{contract.EMAIL_RECIPIENTS_BUCKET}")


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.message == name]


async def test_events_of_every_kind_end_in_the_record_in_one_write(recipients: Bucket, updater: RecordUpdater) -> None:
    created = await recipients.create(EMAIL, records.encode(record()))
    why = Failure(kind="bounce", type="Transient")
    events = [
        event("open", 5, "o2"),
        event("delivery", 1, "d"),
        event("open", 2, "o1"),
        event("click", 3, "c", link="https://lfx.dev"),
        event("bounce", 9, "b", failure=why),
    ]
    assert (await updater.apply(EMAIL, events)).verdict is Verdict.SETTLED
    found = await held(recipients)
    assert (found.delivered, found.open_count, found.click_count, found.failed, found.failure) == (
        True,
        2,
        1,
        True,
        why,
    )
    assert [entry.event_id for entry in found.opened_at_list or ()] == ["o1", "o2"]
    assert await revision(recipients) == created + 1


async def test_permanent_bounces_are_counted_once(recipients: Bucket, updater: RecordUpdater) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    permanent, transient = (Failure(kind="bounce", type=kind) for kind in ("Permanent", "Transient"))
    events = [event("bounce", 6, "b1", failure=permanent), event("complaint", 5, "c")]
    for _ in range(2):
        await updater.apply(EMAIL, [*events, event("bounce", 5, "b2", failure=transient), event("bounce", 4, "b3")])
    assert updater.permanent_bounces == 1


async def test_a_duplicate_writes_nothing(
    recipients: Bucket, updater: RecordUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tracker")
    await recipients.create(EMAIL, records.encode(record()))
    events = [event("open", 5, "o"), event("bounce", 6, "b"), event("click", 7, "c"), event("delivery", 1, "d")]
    await updater.apply(EMAIL, events)
    written = await revision(recipients)
    assert len(logged(caplog, "event.applied")) == 4
    assert (await updater.apply(EMAIL, [*events, *events])).verdict is Verdict.SETTLED
    assert await revision(recipients) == written
    assert len(logged(caplog, "event.duplicate")) == 8


@pytest.mark.parametrize("later", [event("delivery", 9, "d2"), event("bounce", 9, "b2"), event("open", 5, "o")])
async def test_an_event_that_changes_nothing_writes_nothing(
    recipients: Bucket, updater: RecordUpdater, later: EngagementEvent
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    await updater.apply(EMAIL, [event("delivery", 1), event("bounce", 6), event("open", 5, "o")])
    written = await revision(recipients)
    assert (await updater.apply(EMAIL, [later])).verdict is Verdict.SETTLED
    assert await revision(recipients) == written


async def test_a_new_event_is_published_once_and_a_replay_never(
    recipients: Bucket, updater: RecordUpdater, connection: Connection
) -> None:
    pushed: list[Msg] = []
    await connection.subscribe("lfx.email-service.*", pushed.append)
    await recipients.create(EMAIL, records.encode(record()))
    await updater.apply(EMAIL, [event("open", 5, "a"), event("open", 5, "a"), event("open", 3, "b")])
    await updater.apply(EMAIL, [event("open", 5, "a"), event("delivery", 3, "d"), event("open", 3, "b")])
    await connection.flush()
    counts = [json.loads(msg.data).get("open_count") for msg in pushed]
    assert counts == [1, 2, None]


async def test_a_complaint_after_a_bounce_is_published_once_and_a_delay_never(
    recipients: Bucket, updater: RecordUpdater, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tracker")
    pushed: list[Msg] = []
    await connection.subscribe("lfx.email-service.*", pushed.append)
    await recipients.create(EMAIL, records.encode(record()))
    await updater.apply(EMAIL, [event("delay", 1, "d"), event("bounce", 5, "b")])
    for _ in range(2):
        await updater.apply(EMAIL, [event("complaint", 9, "c"), event("complaint", 12, "c2"), event("delay", 1, "d")])
    await connection.flush()
    assert [json.loads(msg.data)["reason"] for msg in pushed] == ["bounce", "complaint"]
    assert [one.__dict__["kind"] for one in logged(caplog, "event.applied")] == ["delay", "bounce", "complaint"]
    found = await held(recipients)
    assert (found.failed_at, found.complained_at) == (event("bounce", 5).at, event("complaint", 9).at)
    assert found.delay


async def test_an_event_without_a_record_is_unmatched_and_creates_no_record(
    recipients: Bucket, updater: RecordUpdater
) -> None:
    assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.UNMATCHED
    assert (await recipients.info()).state.last_seq == 0


async def test_an_event_of_a_deleted_record_is_unmatched(
    recipients: Bucket, updater: RecordUpdater, connection: Connection
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    await (await connection.client.jetstream().key_value(contract.EMAIL_RECIPIENTS_BUCKET)).delete(EMAIL)
    assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.UNMATCHED


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff"])
async def test_a_record_that_cannot_be_read_is_stuck_and_not_changed(
    recipients: Bucket, updater: RecordUpdater, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    await recipients.create(EMAIL, value)
    assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.STUCK
    assert (await recipients.get(EMAIL)).value == value
    assert len(logged(caplog, "record.corrupt")) == 1


async def test_events_are_added_to_a_record_of_the_go_service(recipients: Bucket, updater: RecordUpdater) -> None:
    await recipients.create(
        EMAIL,
        stored(
            delivered=True,
            delivered_at="2026-01-02T03:04:07.123456789Z",
            opened=True,
            opened_at_list=[{"event_id": "go", "opened_at": "2026-01-02T03:05:00Z"}],
            last_opened_at="2026-01-02T03:05:00Z",
            failed=False,
            failed_at=None,
        ),
    )
    assert (await updater.apply(EMAIL, [event("open", 5, "ours"), event("open", 55, "go")])).verdict is Verdict.SETTLED
    found = await held(recipients)
    assert found.open_count == 2
    assert [entry.event_id for entry in found.opened_at_list or ()] == ["ours", "go"]


async def test_tags_and_unknown_fields_of_a_record_of_the_go_service_stay(
    recipients: Bucket, updater: RecordUpdater
) -> None:
    theirs = {
        "tags": {"campaign": "summit"},
        "bounced_by": None,
        "labels": {"b": [1, 2.50, {"nested": "ü"}], "a": True},
        "big": 12345678901234567890123,
    }
    written = stored(delivered=False, opened=False, failed=False, **theirs)
    await recipients.create(EMAIL, written)
    kinds: tuple[Kind, ...] = ("delivery", "open", "click", "bounce", "complaint", "reject", "delay")
    for number, kind in enumerate(kinds):
        assert (await updater.apply(EMAIL, [event(kind, number, f"e{number}")])).verdict is Verdict.SETTLED
    after = json.loads((await recipients.get_from_leader(EMAIL)).value)
    changed = {"delivered": True, "opened": True, "open_count": 1, "clicked": True, "click_count": 1, "failed": True}
    assert after | json.loads(written) | changed == after


async def test_two_updaters_at_once_lose_nothing(recipients: Bucket, nats: NatsServer) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    events = [event("open", number, f"o{number}") for number in range(10)]
    events += [event("click", number, f"c{number}") for number in range(10)]
    async with nats_proxy.running(nats.url) as proxy, another(proxy.url) as one, another(proxy.url) as other:
        verdicts = await asyncio.gather(
            *(updater.apply(EMAIL, [each]) for each, updater in zip(events, [one, other] * 10, strict=True))
        )
        tries = proxy.published.count(KEY)
    assert [one.verdict for one in verdicts] == [Verdict.SETTLED] * 20
    found = await held(recipients)
    assert (found.open_count, found.click_count) == (10, 10)
    ids = [one.event_id for one in found.opened_at_list or ()] + [one.event_id for one in found.click_list or ()]
    assert sorted(ids) == sorted(each.event_id for each in events)
    written = await revision(recipients) - 1
    assert written == 20
    assert tries > written, "there was no conflict"


async def test_the_same_event_at_two_updaters_at_once_counts_once(recipients: Bucket, nats: NatsServer) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    async with another(nats.url) as one, another(nats.url) as other:
        verdicts = await asyncio.gather(*(updater.apply(EMAIL, [event("open")]) for updater in [one, other] * 5))
    assert [one.verdict for one in verdicts] == [Verdict.SETTLED] * 10
    assert (await held(recipients)).open_count == 1
    assert await revision(recipients) == 2


async def test_a_record_at_its_limit_keeps_the_latest_opens_and_an_exact_count(
    connection: Connection, inbox: Inbox
) -> None:
    await create_small_bucket(connection, MAX_RECORD_BYTES)
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
    updater = RecordUpdater(recipients, PushEvents(connection))
    await recipients.create(EMAIL, records.encode(record()))
    started = time.monotonic()
    for number in range(1200):
        opened = event("open", number, f"sns-message-id-of-36-characters-{number:04}")
        assert (await updater.apply(EMAIL, [opened])).verdict is Verdict.SETTLED
    assert time.monotonic() - started < 60
    entry = await recipients.get(EMAIL)
    assert MAX_RECORD_BYTES - HEADER_ROOM_BYTES - 200 < len(entry.value) <= MAX_RECORD_BYTES - HEADER_ROOM_BYTES
    found = records.decode(entry.value)
    assert (found.opened, found.open_count, found.last_opened_at) == (True, 1200, event("open", 1199).at)
    kept = [one.opened_at for one in found.opened_at_list or ()]
    assert kept == [event("open", number).at for number in range(1200 - len(kept), 1200)]


async def test_an_event_for_a_full_record_is_settled_with_an_error(
    connection: Connection, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    await create_small_bucket(connection, 400)
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
    written = await recipients.create(EMAIL, records.encode(record()))
    assert (
        await RecordUpdater(recipients, PushEvents(connection)).apply(EMAIL, [event("open")])
    ).verdict is Verdict.SETTLED
    assert len(logged(caplog, "record.full")) == 1
    assert await revision(recipients) == written


async def test_a_limit_that_was_lowered_is_read_again(connection: Connection, inbox: Inbox) -> None:
    await create_small_bucket(connection, 8000)
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
    updater = RecordUpdater(recipients, PushEvents(connection))
    await recipients.create(EMAIL, records.encode(record()))
    opens = [event("open", number, str(number)) for number in range(50)]
    assert (await updater.apply(EMAIL, opens)).verdict is Verdict.SETTLED
    jetstream = connection.client.jetstream()
    config = (await jetstream.stream_info(f"KV_{contract.EMAIL_RECIPIENTS_BUCKET}")).config
    config.max_msg_size = 1500
    await jetstream.update_stream(config)
    assert (await updater.apply(EMAIL, [event("open", 99, "last")])).verdict is Verdict.CONTESTED
    assert (await updater.apply(EMAIL, [event("open", 99, "last")])).verdict is Verdict.SETTLED
    found = await held(recipients)
    assert found.open_count == 51
    assert (found.opened_at_list or ())[-1].event_id == "last"


async def test_without_its_bucket_an_event_is_tried_again_until_the_bucket_is_back(
    recipients: Bucket, updater: RecordUpdater, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    assert (await updater.apply(EMAIL, [event("delivery")])).verdict is Verdict.SETTLED
    await delete_bucket(connection)
    for _ in range(3):
        assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.AGAIN
    assert len(logged(caplog, "event.postponed")) == 3
    await create_missing(connection, [contract.EMAIL_RECIPIENTS_BUCKET])
    assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.UNMATCHED
    await recipients.create(EMAIL, records.encode(record()))
    assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.SETTLED
    assert (await held(recipients)).open_count == 1


async def test_without_its_server_an_event_is_tried_again_until_the_server_is_back(
    recipients: Bucket, updater: RecordUpdater, connection: Connection, nats: NatsServer
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    gone = asyncio.Event()
    connection.on_disconnect(gone.set)
    await nats.kill()
    await gone.wait()
    assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.AGAIN
    await nats.start()
    async with asyncio.timeout(10):
        while (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.AGAIN:
            await asyncio.sleep(0.02)
    assert (await held(recipients)).open_count == 1


async def test_a_write_whose_answer_is_lost_is_not_repeated_at_the_next_try(
    recipients: Bucket, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.nats.inbox, "TIMEOUT_SECONDS", 0.8)
    await recipients.create(EMAIL, records.encode(record()))
    async with nats_proxy.running(nats.url) as proxy, another(proxy.url) as updater:
        proxy.lose_reply("$KV.", 1)
        assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.AGAIN
        assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.SETTLED
    assert (await held(recipients)).open_count == 1


@pytest.mark.parametrize("code", [10071, 10164])
async def test_a_false_conflict_is_tried_again(recipients: Bucket, nats: NatsServer, code: int) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    async with nats_proxy.running(nats.url) as proxy, another(proxy.url) as updater:
        proxy.answer("$KV.", 2, nats_proxy.js_error(400, code, "wrong last sequence"))
        assert (await updater.apply(EMAIL, [event("open")])).verdict is Verdict.SETTLED
    assert (await held(recipients)).open_count == 1


async def test_address_and_browser_of_a_reader_are_neither_stored_nor_logged(
    recipients: Bucket, updater: RecordUpdater, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = ses_events.open_(TRACKING_ID, AT)
    opened = ses_event.parse(ses_events.notification(body), message_id="m", received_at=AT)
    assert isinstance(opened, EngagementEvent)
    await recipients.create(EMAIL, records.encode(record()))
    await updater.apply(EMAIL, [opened])
    logged_lines = [str(vars(one)) for one in caplog.records if one.name.startswith("tracker")]
    assert any("event.applied" in line for line in logged_lines)
    for text in (*logged_lines, (await recipients.get(EMAIL)).value.decode()):
        assert body["open"]["ipAddress"] not in text
        assert body["open"]["userAgent"] not in text
    assert not any(TO in line or GROUP in line for line in logged_lines)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A missing record is made from its events and listed in its group once, beside relays and other trackers."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from nats.js.api import KeyValueConfig

from relay.records.record_writer import RecordWriter
from shared import contract, group_index
from shared.erasure import Erasures
from shared.index_writer import IndexWriter
from shared.kv.bucket import Bucket
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import ses_events
from tests.tracker.events.polling import LONG_AGO, Watched, logged, of_email, polling
from tests.tracker.examples import EMAIL, GROUP, TO, TRACKING_ID, at, record
from tracker.events import records, ses_event
from tracker.events.push_events import PushEvents, publish_nothing
from tracker.events.rebuilder import DELETED, EXPIRED, NO_GROUP, REMOVED, Rebuilder
from tracker.events.rebuilding import Rebuilding
from tracker.events.record_updater import RecordUpdater, Verdict
from tracker.events.ses_event import EngagementEvent
from tracker.events.store_outage import StoreOutage

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from shared.contract import EmailRecipientRecord
    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tracker.events.record_updater import Publish

KEY = group_index.key_of(GROUP)


def events(email_id: str = EMAIL) -> list[EngagementEvent]:
    """Return four events of an email, as they are received."""
    tracking_id = f"{GROUP}/{email_id}"
    sent = ses_events.mail(tracking_id, at(2))
    made: list[dict[str, Any]] = [
        ses_events.delivery(tracking_id, at(3)),
        ses_events.open_(tracking_id, at(4)),
        ses_events.click(tracking_id, at(5)),
        ses_events.bounce(tracking_id, at(6)),
    ]
    bodies = [ses_events.notification({**one, "mail": sent}, f"{email_id}-{n}") for n, one in enumerate(made)]
    parsed = [ses_event.parse(body, message_id="m", received_at=at(9)) for body in bodies]
    return [one for one in parsed if isinstance(one, EngagementEvent)]


async def held(recipients: Bucket, email_id: str = EMAIL) -> EmailRecipientRecord:
    return records.decode((await recipients.get_from_leader(email_id)).value)


async def ids(index: Bucket, group_id: str = GROUP) -> list[str]:
    value = await index.find(group_index.key_of(group_id))
    return list(group_index.decode(value)) if value else []


async def seal(index: Bucket, before: str) -> None:
    await index.create(group_index.seal_key(KEY, 0), json.dumps({"total_sent": 1, "before": before}).encode())


class Tracker(Rebuilding):
    """The parts of a tracker that rebuilds records."""

    def __init__(self, recipients: Bucket, index: Bucket, publish: Publish = publish_nothing) -> None:
        rebuilder = Rebuilder(recipients, index)
        self.updater = RecordUpdater(recipients, publish, group=rebuilder.group)
        super().__init__(rebuilder, self.updater)


@pytest.fixture
def rebuilding(recipients: Bucket, index: Bucket, connection: Connection) -> Tracker:
    """A tracker that rebuilds records."""
    return Tracker(recipients, index, PushEvents(connection))


async def test_a_missing_record_is_made_listed_and_gets_its_events(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    applied = await rebuilding.rebuild(EMAIL, events())
    assert (applied.verdict, applied.new, applied.rebuilt) == (Verdict.SETTLED, 4, True)
    found = await held(recipients)
    assert (found.group_id, found.subject, found.sent_at) == (GROUP, "Your meeting", at(0))
    assert (found.delivered, found.open_count, found.click_count, found.failed) == (True, 1, 1, True)
    assert not records.is_ungrouped((await recipients.get(EMAIL)).value)
    assert await ids(index) == [EMAIL]


async def test_a_rebuilt_record_is_the_same_after_each_order_of_its_events(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    values = set()
    for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 5):
        email_id = str(uuid4())
        for number in order:
            await rebuilding.restore(email_id, [events(email_id)[number]])
        values.add((await recipients.get(email_id)).value.replace(email_id.encode(), b""))
    assert len(values) == 1
    assert len(set(await ids(index))) == len(await ids(index)) == 5


async def test_an_existing_record_stays_and_is_not_listed_again(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    await recipients.create(EMAIL, records.encode(record(subject="As sent")))
    await IndexWriter(index).append(GROUP, EMAIL)
    applied = await rebuilding.rebuild(EMAIL, events())
    assert (applied.new, applied.rebuilt) == (4, False)
    assert (await held(recipients)).subject == "As sent"
    assert await ids(index) == [EMAIL]


async def test_trackers_that_rebuild_at_once_lose_no_event_and_list_each_email_once(
    nats: NatsServer, recipients: Bucket, index: Bucket
) -> None:
    email_ids = [str(uuid4()) for _ in range(12)]

    async def track(url: str) -> None:
        async with nats_connection.opened(ProcessSettings(nats_url=url), "tracker") as opened, Inbox(opened) as inbox:
            own = [Bucket(inbox, opened, bucket.name) for bucket in (recipients, index)]
            tracker = Tracker(own[0], own[1])

            async def settle(email_id: str, event: EngagementEvent) -> None:
                while (await tracker.rebuild(email_id, [event])).verdict is not Verdict.SETTLED:
                    await asyncio.sleep(0.01)

            work = [(email_id, event) for email_id in email_ids for event in events(email_id)]
            random.shuffle(work)
            await asyncio.gather(*(settle(*one) for one in work))

    await asyncio.gather(*(track(nats.url) for _ in range(3)))
    assert sorted(await ids(index)) == sorted(email_ids)
    for email_id in email_ids:
        found = await held(recipients, email_id)
        assert (found.delivered, found.open_count, found.click_count, found.failed) == (True, 1, 1, True)


@pytest.mark.parametrize("late_seconds", [0.0, 0.002, 0.005, 0.01, 0.1])
async def test_beside_a_relay_that_writes_the_same_record_the_email_is_listed_once(
    nats: NatsServer, recipients: Bucket, index: Bucket, rebuilding: Tracker, late_seconds: float
) -> None:
    email_ids = [str(uuid4()) for _ in range(20)]
    async with nats_connection.opened(ProcessSettings(nats_url=nats.url), "relay") as opened, Inbox(opened) as inbox:
        own = [Bucket(inbox, opened, bucket.name) for bucket in (recipients, index)]
        async with RecordWriter(own[0], IndexWriter(own[1])) as relay:

            async def write(email_id: str) -> None:
                await asyncio.sleep(late_seconds * email_ids.index(email_id) / len(email_ids))
                await relay.write(record(email_id=email_id), deadline=asyncio.get_running_loop().time() + 10)

            async def settle(email_id: str) -> None:
                while (await rebuilding.rebuild(email_id, events(email_id))).verdict is not Verdict.SETTLED:
                    await asyncio.sleep(0.01)

            await asyncio.gather(*map(write, email_ids), *map(settle, email_ids))
    assert sorted(await ids(index)) == sorted(email_ids)
    assert all([(await held(recipients, one)).open_count == 1 for one in email_ids])


async def test_after_a_crash_between_record_and_index_the_next_event_lists_the_email(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    await recipients.create(EMAIL, records.encode_ungrouped(record()))
    assert (await rebuilding.updater.apply(EMAIL, events()[:1])).new == 1
    assert await ids(index) == [EMAIL]
    assert (await recipients.get(EMAIL)).value == records.encode(await held(recipients))


async def test_after_a_crash_behind_the_index_the_email_is_not_listed_again(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    await recipients.create(EMAIL, records.encode_ungrouped(record()))
    await IndexWriter(index).append(GROUP, EMAIL)
    await rebuilding.updater.apply(EMAIL, events())
    assert await ids(index) == [EMAIL]
    assert not records.is_ungrouped((await recipients.get(EMAIL)).value)


async def test_a_tracker_without_the_setting_keeps_the_mark_of_another(
    recipients: Bucket, index: Bucket, updater: RecordUpdater
) -> None:
    await recipients.create(EMAIL, records.encode_ungrouped(record()))
    await updater.apply(EMAIL, events())
    assert records.is_ungrouped((await recipients.get(EMAIL)).value)
    assert await ids(index) == []


async def test_a_rebuilt_record_of_an_erased_person_is_anonymous(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    await Erasures(recipients).note(TO, at(100))
    assert (await rebuilding.rebuild(EMAIL, events())).rebuilt
    value = (await recipients.get(EMAIL)).value
    assert TO.encode() not in value
    assert not records.is_ungrouped(value)
    found = await held(recipients)
    assert (found.to, found.delivered, found.open_count, found.click_count) == (contract.ERASED, True, 1, 1)
    assert await ids(index) == [EMAIL]


async def test_a_record_that_was_deleted_is_not_rebuilt(recipients: Bucket, index: Bucket, rebuilding: Tracker) -> None:
    revision = await recipients.create(EMAIL, records.encode(record()))
    await recipients.delete(EMAIL, revision)
    applied = await rebuilding.rebuild(EMAIL, events())
    assert (applied.verdict, applied.error) == (Verdict.UNMATCHED, DELETED)
    assert await ids(index) == []


@pytest.mark.parametrize(
    ("before", "listed", "is_rebuilt"),
    [
        ("2026-01-02T03:04:06Z", False, False),
        ("2026-01-02T02:30:00Z", False, False),  # the clocks of relay and SES may differ
        ("2026-01-01T00:00:00Z", False, True),
        ("2026-07-01T00:00:00Z", True, True),
    ],
)
async def test_a_record_that_retention_may_have_removed_is_not_rebuilt(  # noqa: PLR0913 - parts and cases
    recipients: Bucket, index: Bucket, rebuilding: Tracker, before: str, *, listed: bool, is_rebuilt: bool
) -> None:
    await seal(index, before)
    if listed:
        await IndexWriter(index).append(GROUP, EMAIL)
    applied = await rebuilding.rebuild(EMAIL, events())
    assert applied.rebuilt is is_rebuilt
    assert applied.error == ("" if is_rebuilt else REMOVED)
    assert await ids(index) == ([EMAIL] if is_rebuilt else [])
    assert (await recipients.info()).state.messages == is_rebuilt


async def test_a_seal_that_cannot_be_read_prevents_rebuilding(index: Bucket, rebuilding: Tracker) -> None:
    await index.create(group_index.seal_key(KEY, 3), b"{")
    assert (await rebuilding.rebuild(EMAIL, events())).error == REMOVED


async def test_an_email_that_retention_is_removing_is_not_listed_again(
    recipients: Bucket, index: Bucket, rebuilding: Tracker
) -> None:
    await recipients.create(EMAIL, records.encode(record()))
    await seal(index, "2026-02-01T00:00:00Z")
    assert (await rebuilding.restore(EMAIL, events())).new == 4
    assert await ids(index) == []


async def test_a_record_older_than_the_ttl_of_its_bucket_is_not_rebuilt(
    connection: Connection, inbox: Inbox, index: Bucket
) -> None:
    config = KeyValueConfig(bucket=contract.EMAIL_RECIPIENTS_BUCKET, direct=True, ttl=3600)
    await connection.client.jetstream().create_key_value(config)
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
    assert (await Tracker(recipients, index).rebuild(EMAIL, events())).error == EXPIRED


async def test_an_event_that_does_not_name_the_group_makes_no_record(recipients: Bucket, rebuilding: Tracker) -> None:
    delivery = ses_events.delivery(TRACKING_ID, at(3))
    delivery["mail"] = ses_events.mail(TRACKING_ID, at(3), headers_truncated=True)
    event = ses_event.parse(ses_events.notification(delivery), message_id="m", received_at=at(9))
    assert isinstance(event, EngagementEvent)
    assert (await rebuilding.rebuild(EMAIL, [event])).error == NO_GROUP
    assert (await rebuilding.rebuild(EMAIL, [event, *events()])).rebuilt, "another event names it"
    assert (await held(recipients)).delivered


async def test_without_batches_the_seals_are_found_one_by_one(
    index: Bucket, rebuilding: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> None:
        return None

    monkeypatch.setattr(Bucket, "get_matching", none)
    for segment in (0, 1):
        await index.create(group_index.segment_key(KEY, segment), b"[]")
    await index.create(group_index.seal_key(KEY, 2), b'{"before":"2026-02-01T00:00:00Z"}')
    assert (await rebuilding.rebuild(EMAIL, events())).error == REMOVED


@pytest.mark.usefixtures("hasty")
async def test_a_live_event_waits_for_the_relay_and_then_makes_its_record_and_is_pushed(
    sqs: SqsEndpoint, recipients: Bucket, index: Bucket, connection: Connection, rebuilding: Tracker
) -> None:
    heard: list[str] = []

    def on_message(msg: Msg) -> None:
        heard.append(msg.subject)

    def waited_seconds(*_: object) -> float:
        return LONG_AGO if len(watched.asked) >= 2 else 0.0

    await connection.subscribe("lfx.email-service.>", on_message)
    await connection.flush()
    watched = Watched(rebuilding.updater)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreOutage, "waited_seconds", waited_seconds)
        async with polling(sqs, watched, rebuild=rebuilding.rebuild):
            sqs.send(of_email())
            await sqs.wait_until_empty()
    assert len(watched.asked) == 2
    assert (await held(recipients)).delivered
    assert await ids(index) == [EMAIL]
    await connection.flush()
    assert heard == [contract.EMAIL_DELIVERED_SUBJECT]


@pytest.mark.usefixtures("hasty")
async def test_a_live_event_whose_record_cannot_be_made_is_skipped(
    sqs: SqsEndpoint, index: Bucket, rebuilding: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tracker")
    await seal(index, "2026-02-01T00:00:00Z")
    async with polling(sqs, rebuilding.updater, rebuild=rebuilding.rebuild):
        sqs.send(of_email(), sent_at=time.time() - LONG_AGO)
        await sqs.wait_until_empty()
    [line] = logged(caplog, "record.not_rebuilt")
    assert (line["email_id"], line["reason"]) == (EMAIL, REMOVED)
    assert len(logged(caplog, "event.unmatched")) == 1

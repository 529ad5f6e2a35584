# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SES events from the queue to the records and to subscribers: each kind, each form, any order, once each."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance import caller as callers
from tests.acceptance import event_cases, mails, services
from tests.acceptance.buckets import fresh_record
from tests.acceptance.event_cases import DELAY, HARD_BOUNCE, NOON, Case, Sent, at, delivered, failed, opened, text
from tests.stack import console, ses_events
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller
    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("relay", "tracker")]

LINK = "https://user:secret@lfx.dev/minutes?token=secret#part"


async def send(caller: Caller, smtp: SmtpServer, **changes: object) -> Sent:
    """Send an email; return it with the tracking id of the received mail."""
    email_id = await caller.sent(**changes)
    [mail] = [mail for mail in smtp.mails if mails.email_id(mail) == email_id]
    return Sent(mails.tracking_id(mail))


async def play(sqs: SqsEndpoint, *bodies: str) -> list[str]:
    """Put bodies into the queue, each when the one before is deleted; return their SQS message ids."""
    message_ids = []
    for body in bodies:
        message_ids.append(sqs.send(body))
        await sqs.wait_until_empty()
    return message_ids


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in event_cases.CASES])
async def test_an_event_from_a_public_report_makes_the_right_change_to_the_record(
    case: Case, platform: Platform, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint, tracker: Console
) -> None:
    caller, buckets = platform.caller, platform.buckets
    sent = await send(caller, smtp_server, group_id=f"g/{case.id}")
    before, revision = await buckets.record(sent.email_id), await buckets.revision(sent.email_id)
    ignored, printed = len(tracker.logged("event.ignored")), len(tracker.output)
    message_ids = await play(sqs_endpoint, *case.bodies(sent))
    changes = json.loads(json.dumps(case.changes).replace("{message_ids[0]}", message_ids[0]))
    assert before
    assert await buckets.record(sent.email_id) == before | changes
    if case.ignored:
        await tracker.wait_for_log("event.ignored", count=ignored + 1)
    lines = [(line["level"], line["reason"]) for line in tracker.logged("event.ignored")[ignored:]]
    assert lines == ([case.ignored] if case.ignored else [])
    assert (await buckets.revision(sent.email_id) == revision) == (not changes)
    written = tracker.output[printed:]
    assert "@" not in written
    assert not any(private in written for private in ("198.51.100.7", "GoogleImageProxy"))


async def test_an_event_that_arrives_before_its_record_is_applied_when_the_record_exists(
    buckets: Buckets, sqs_endpoint: SqsEndpoint
) -> None:
    async def record_later(seconds: float) -> dict[str, Any]:
        email_id = str(uuid.uuid4())
        sqs_endpoint.send(ses_events.notification(ses_events.delivery(f"late/{email_id}", at(5))))
        await asyncio.sleep(seconds)  # the delay is the subject of the test
        await buckets.put_records(fresh_record(email_id, "late"))
        return await until(lambda: buckets.record(email_id), lambda record: bool(record and record["delivered"])) or {}

    records = await asyncio.gather(*map(record_later, (0.2, 1, 2)))
    assert [record["delivered_at"] for record in records] == [text(5)] * 3
    await sqs_endpoint.wait_until_empty()
    deleted = Counter(sqs_endpoint.deleted)
    assert max(deleted.values()) == 1


def every_kind(sent: Sent) -> dict[str, str]:
    """Return events of each kind, two of those that are counted, by their SNS MessageIds."""
    events = {
        "delivery": ses_events.delivery(sent.tracking_id, at(2)),
        "delivery-later": ses_events.delivery(sent.tracking_id, at(9)),
        "open-1": ses_events.open_(sent.tracking_id, at(10)),
        "open-2": ses_events.open_(sent.tracking_id, at(20)),
        "click-1": ses_events.click(sent.tracking_id, at(11), LINK),
        "click-2": ses_events.click(sent.tracking_id, at(21), "https://lfx.dev/other"),
        "complaint": ses_events.complaint(sent.tracking_id, at(40)),
        "bounce": ses_events.bounce(sent.tracking_id, at(30)),
        "reject": ses_events.reject(sent.tracking_id, at(35)),
        "delay": ses_events.delivery_delay(sent.tracking_id, at(60), "SpamDetected"),
        "delay-before": ses_events.delivery_delay(sent.tracking_id, at(50)),
    }
    return {name: ses_events.notification(event, name) for name, event in events.items()}


EVERY_CHANGE = (
    delivered(2)
    | opened(("open-1", 10), ("open-2", 20))
    | failed(30, HARD_BOUNCE)
    | {
        "complained_at": text(40),
        "delay": DELAY,
        "clicked": True,
        "click_count": 2,
        "click_list": [
            {"event_id": "click-1", "link": LINK, "clicked_at": text(11)},
            {"event_id": "click-2", "link": "https://lfx.dev/other", "clicked_at": text(21)},
        ],
        "last_clicked_at": text(21),
    }
)


def orders() -> Iterable[Any]:
    """Yield orders of the events, with repeats."""
    names = list(every_kind(Sent("g/e")))
    yield pytest.param(names, id="as-they-happened")
    yield pytest.param(names[::-1], id="backwards")
    yield pytest.param(names + names[::-1] + names, id="three-times")
    yield pytest.param([name for name in names for _ in range(3)], id="each-three-times")
    yield pytest.param(names[4:] + names[:4], id="rotated")


@pytest.mark.parametrize("together", [True, False], ids=["together", "one-by-one"])
@pytest.mark.parametrize("order", list(orders()))
async def test_any_order_and_any_number_of_repeats_end_in_the_same_record(
    platform: Platform, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint, order: Sequence[str], *, together: bool
) -> None:
    sent = await send(platform.caller, smtp_server, group_id="orders")
    before = await platform.buckets.record(sent.email_id)
    bodies = every_kind(sent)
    if together:
        for name in order:
            sqs_endpoint.send(bodies[name])
        await sqs_endpoint.wait_until_empty()
    else:
        await play(sqs_endpoint, *(bodies[name] for name in order))
    assert before
    assert await platform.buckets.record(sent.email_id) == before | EVERY_CHANGE
    assert await platform.caller.status(email_id=sent.email_id) == before | EVERY_CHANGE


def forms(event: ses_events.Event, message_id: str) -> dict[str, tuple[str, str | None]]:
    """Return the possible bodies of one event, each with its event id; None is the id of the SQS message."""
    envelope = json.loads(ses_events.notification(event, message_id))
    kind = event["eventType"]
    return {
        "notification": (json.dumps(envelope), message_id),
        "message-as-object": (json.dumps(envelope | {"Message": event}), message_id),
        "raw": (json.dumps(event), None),
        "without-message-id": (
            json.dumps({name: value for name, value in envelope.items() if name != "MessageId"}),
            None,
        ),
        "lower-case": (ses_events.notification(event | {"eventType": kind.lower()}, message_id), message_id),
        "upper-case": (ses_events.notification(event | {"eventType": kind.upper()}, message_id), message_id),
        "notification-type": (
            ses_events.notification(
                {name: value for name, value in event.items() if name != "eventType"} | {"notificationType": kind},
                message_id,
            ),
            message_id,
        ),
        "raw-notification-type": (
            json.dumps(
                {name: value for name, value in event.items() if name != "eventType"} | {"notificationType": kind}
            ),
            None,
        ),
    }


async def test_every_form_of_every_kind_is_read(
    platform: Platform, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint
) -> None:
    kinds: tuple[Callable[..., ses_events.Event], ...] = (
        ses_events.delivery,
        ses_events.open_,
        ses_events.click,
        ses_events.bounce,
        ses_events.complaint,
        ses_events.reject,
    )
    names = list(forms(ses_events.delivery("g/e", NOON), "m"))
    played = []
    for make, name in itertools.product(kinds, names):
        sent = await send(platform.caller, smtp_server, group_id="forms")
        event = make(sent.tracking_id, at(5))
        body, event_id = forms(event, f"sns-{sent.email_id}")[name]
        message_id = sqs_endpoint.send(body)
        played.append((sent.email_id, _flag(event["eventType"]), event_id or message_id, name))
    await sqs_endpoint.wait_until_empty()
    for email_id, flag, event_id, name in played:
        record = await platform.buckets.record(email_id)
        assert record
        flags = [flag for flag in ("delivered", "opened", "clicked", "failed") if record[flag]]
        assert flags == [flag], name
        for entry in record.get("opened_at_list", []) + record.get("click_list", []):
            assert entry["event_id"] == event_id, name


def _flag(event_type: str) -> str:
    flags = {"Delivery": "delivered", "Open": "opened", "Click": "clicked"}
    return flags.get(event_type, "failed")


async def test_any_group_id_is_read_back_from_the_tracking_header(
    platform: Platform, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint
) -> None:
    for group_id in ("a/b", "Zoë 東京", "100%", "a..b", "=x", "g" * 255, "é" * 127):
        sent = await send(platform.caller, smtp_server, group_id=group_id)
        encoded = f"=?utf-8?q?{sent.tracking_id.replace('=', '=3D').replace('?', '=3F')}?="
        for value in (sent.tracking_id, encoded):
            event = event_cases.with_headers(
                ses_events.open_(sent.tracking_id, at(5)), ("X-LFX-TRACKING-ID", f"\r\n {value}")
            )
            await play(sqs_endpoint, ses_events.notification(event))
        [record] = await platform.caller.status(group_id=group_id)
        assert (record["email_id"], record["open_count"]) == (sent.email_id, 2), group_id


async def test_each_new_event_is_pushed_once_and_a_repeat_is_not_pushed(
    platform: Platform, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint
) -> None:
    sent = await send(platform.caller, smtp_server, group_id="pushed")
    marker = await send(platform.caller, smtp_server, group_id="marker")
    async with callers.connected(platform.nats.url) as subscriber:
        pushes = await subscriber.subscribe()
        bodies = every_kind(sent)
        for later in ("delivery-later", "reject"):
            del bodies[later]
        for delay in ("delay-before", "delay"):  # not published
            await play(sqs_endpoint, bodies.pop(delay))
        await play(sqs_endpoint, *bodies.values(), *bodies.values())
        await play(sqs_endpoint, ses_events.notification(ses_events.delivery(marker.tracking_id, at(5))))
        came = await pushes.wait_for(len(bodies) + 1)
    ids = {"email_id": sent.email_id, "group_id": "pushed"}
    complaint = {"kind": "complaint", "type": "abuse"}
    assert [tuple(push) for push in came] == [
        (callers.EMAIL_DELIVERED, ids | {"delivered_at": text(2)}),
        (callers.EMAIL_OPENED, ids | {"open_count": 1, "opened_at": text(10)}),
        (callers.EMAIL_OPENED, ids | {"open_count": 2, "opened_at": text(20)}),
        (
            callers.EMAIL_LINK_CLICKED,
            ids
            | {
                "event_id": "click-1",
                "link": "https://lfx.dev/minutes",
                "click_count": 1,
                "clicked_at": text(11),
            },
        ),
        (
            callers.EMAIL_LINK_CLICKED,
            ids | {"event_id": "click-2", "link": "https://lfx.dev/other", "click_count": 2, "clicked_at": text(21)},
        ),
        (callers.EMAIL_FAILED, ids | {"reason": "complaint", "failed_at": text(40), "failure": complaint}),
        (callers.EMAIL_FAILED, ids | {"reason": "bounce", "failed_at": text(30), "failure": HARD_BOUNCE}),
        (
            callers.EMAIL_DELIVERED,
            {"email_id": marker.email_id, "group_id": "marker", "delivered_at": text(5)},
        ),
    ]


MALFORMED = [
    "",
    "{",
    "null",
    "[]",
    '"text"',
    "[" * 100_000,
    '{"Type": "Notification", "MessageId": "m", "Message": "{"}',
    '{"Type": "Notification", "MessageId": "m", "Message": null}',
    '{"Type": "Notification", "MessageId": "m", "Message": "[]"}',
    '{"Type": "SubscriptionConfirmation", "Token": "t", "Message": "You have chosen to subscribe"}',
    '{"eventType": ["Open"]}',
    '{"eventType": "Open"}',
    '{"eventType": "Open", "open": 7, "mail": {"headers": 7, "tags": 7}}',
    '{"eventType": "Open", "mail": {"headers": [7, null, {"name": 7}, {"name": "X-LFX-TRACKING-ID", "value": 7}]}}',
    '{"eventType": "Open", "mail": {"headers": [{"name": "X-LFX-TRACKING-ID", "value": "g/*"}]}}',
    '{"eventType": "Open", "mail": {"headers": [{"name": "X-LFX-TRACKING-ID", "value": "g/a..b"}]}}',
    '{"eventType": "Open", "mail": {"headers": [{"name": "X-LFX-TRACKING-ID", "value": "=?x?q?=FF?="}]}}',
    '{"eventType": "Open", "mail": {"headers": [{"name": "X-LFX-TRACKING-ID", "value": "g/\\ud83d"}]}}',
]


async def test_malformed_messages_are_deleted_and_the_others_are_applied() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running(max_receive_count=3) as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        await platform.buckets.put_records(*(fresh_record(f"e{number}", "g") for number in range(len(MALFORMED))))
        before = await platform.buckets.writes()
        for number, body in enumerate(MALFORMED):
            sqs.send(body)
            sqs.send(ses_events.notification(ses_events.delivery(f"g/e{number}", at(5))))
        await sqs.wait_until_empty()
        assert sqs.queues["engagement-events-dlq"].visible == 0
        records = await platform.buckets.records([f"e{number}" for number in range(len(MALFORMED))])
        assert [record["delivered"] for record in records] == [True] * len(MALFORMED)
        assert (await platform.buckets.writes())[0] - before[0] == len(MALFORMED)
        await tracker.wait_for_log("event.ignored", count=len(MALFORMED))
        assert (await tracker.get("/readyz"))[0] == 200


async def test_an_event_without_a_record_is_deleted_after_the_wait_for_records() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running(max_receive_count=1) as sqs,
        services.tracker(platform.nats, sqs, ENGAGEMENT_RECORD_WAIT_SECONDS="1.5") as tracker,
    ):
        body = ses_events.notification(ses_events.delivery("g/unknown", at(5)), "m1")
        sent_at = time.time()
        young = sqs.send(body)
        old = sqs.send(body, sent_at=sent_at - 2)
        await sqs.wait_until_empty()
        assert sqs.deleted == [old, young]
        assert time.time() - sent_at >= 1.5
        await tracker.wait_for_log("event.unmatched", count=2)
        assert [line["email_id"] for line in tracker.logged("event.unmatched")] == ["unknown"] * 2
        assert await platform.buckets.writes() == [0, 0]
        assert sqs.queues["engagement-events-dlq"].visible == 0


async def test_failed_entries_and_failed_calls_of_the_queue_lose_no_event(
    platform: Platform, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint
) -> None:
    sent = await send(platform.caller, smtp_server, group_id="faults")
    sqs_endpoint.fail_next("DeleteMessageBatch")
    sqs_endpoint.fail_entries("DeleteMessageBatch", count=2)
    sqs_endpoint.fail_entries("DeleteMessageBatch", code="ReceiptHandleIsInvalid", sender_fault=True)
    for number in range(10):
        sqs_endpoint.send(ses_events.notification(ses_events.open_(sent.tracking_id, at(number)), f"m{number}"))
    record = await until(
        lambda: platform.buckets.record(sent.email_id), lambda record: bool(record and record["open_count"] == 10)
    )
    assert record
    assert [entry["event_id"] for entry in record["opened_at_list"]] == [f"m{number}" for number in range(10)]
    sqs_endpoint.queue.purge()  # the message of the invalid handle would come again later
    await play(sqs_endpoint, ses_events.notification(ses_events.delivery(sent.tracking_id, at(5))))


async def test_three_receive_failures_in_a_row_end_the_tracker_with_status_1() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running() as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        await platform.buckets.put_records(fresh_record("e", "g"))
        await sqs.wait_for_calls("ReceiveMessage")
        sqs.fail_next("ReceiveMessage", "AccessDenied", 403, times=100)
        sqs.send(ses_events.notification(ses_events.delivery("g/e", at(5))))  # ends the open poll, and is applied
        await tracker.wait_for_log("queue.receive_failed", count=2)
        await until(lambda: platform.caller.status(email_id="e"), lambda record: bool(record["delivered"]))
        assert await tracker.wait() == 1
        assert (await tracker.wait_for_log("process.stopped"))["status"] == 1
        assert [line["failures"] for line in tracker.logged("queue.receive_failed")][-2:] == [2, 3]
        assert sqs.in_flight == 0


async def test_a_tracker_without_sqs_is_not_ready_and_ends_at_its_shutdown_timeout() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running() as sqs,
        services.tracker(platform.nats, sqs, SQS_RECEIVERS="1", SHUTDOWN_TIMEOUT_SECONDS="1") as tracker,
    ):
        sqs.instead["ChangeMessageVisibilityBatch"] = None
        sqs.send(ses_events.notification(ses_events.delivery("g/held", at(5))))
        await until(_count_in_flight(sqs), lambda count: count == 1)
        sqs.fail_next("ReceiveMessage", times=100)
        sqs.send(ses_events.notification(ses_events.delivery("g/ends-the-open-poll", at(5))))
        await tracker.wait_for_log("process.stopping")
        assert (await tracker.get("/readyz"))[0] == 503
        assert await tracker.wait() == 1
        assert (await tracker.wait_for_log("process.stopped"))["status"] == 1
        assert not tracker.errors


async def test_single_receive_failures_do_not_end_the_tracker() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running() as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        await platform.buckets.put_records(fresh_record("e", "g"))
        for number in range(3):
            sqs.fail_next("ReceiveMessage", "ServiceUnavailable", 503)
            await play(sqs, ses_events.notification(ses_events.open_("g/e", at(number))))
        await tracker.wait_for_log("queue.receive_failed", count=3)
        assert {line["failures"] for line in tracker.logged("queue.receive_failed")} == {1}
        assert ((await platform.buckets.record("e")) or {})["open_count"] == 3
        assert tracker.returncode is None


async def test_an_outage_counts_once_for_both_receivers() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running() as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        await platform.buckets.put_records(fresh_record("e", "g"))
        await play(sqs, ses_events.notification(ses_events.open_("g/e", at(1))))
        await sqs.wait_for_calls("ReceiveMessage", 3)  # both receivers are polling
        await sqs.stop()
        await tracker.wait_for_log("queue.receive_failed", count=2)
        await sqs.start()
        await play(sqs, ses_events.notification(ses_events.open_("g/e", at(2))))
        assert {line["failures"] for line in tracker.logged("queue.receive_failed")} == {1}


@pytest.mark.parametrize("missing", ["buckets", "queue-url"])
async def test_eventing_without_its_settings_or_buckets_ends_the_start_with_status_1(missing: str) -> None:
    async with services.platform() as platform, sqs_endpoints.running() as sqs:
        environment = services.tracker_environment(platform.nats, sqs)
        if missing == "queue-url":
            environment["SES_ENGAGEMENT_SQS_QUEUE_URL"] = ""
        else:
            await platform.buckets.delete()
        async with console.running(services.TRACKER, "serve", env=environment) as tracker:
            assert await tracker.wait() == 1
            line = await tracker.wait_for_log("start.failed")
            wanted = (
                "SES_ENGAGEMENT_SQS_QUEUE_URL"
                if missing == "queue-url"
                else "email-recipients: stream not found (10059): install"
            )
            assert wanted in line["error"]
            assert sqs.receives == 0


async def test_a_signal_makes_held_messages_visible_at_once() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running() as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        bodies = [ses_events.notification(ses_events.delivery(f"g/e{number}", at(5))) for number in range(15)]
        for body in bodies:
            sqs.send(body)
        await until(_count_in_flight(sqs), lambda count: count == 15)
        tracker.terminate()
        assert await tracker.wait() == 0
        assert (sqs.visible, sqs.in_flight, sqs.deleted) == (15, 0, [])
        await platform.buckets.put_records(*(fresh_record(f"e{number}", "g") for number in range(15)))
        async with services.tracker(platform.nats, sqs):
            await sqs.wait_until_empty()
        records = await platform.buckets.records([f"e{number}" for number in range(15)])
        assert [record["delivered"] for record in records] == [True] * 15


def _count_in_flight(sqs: SqsEndpoint) -> Callable[[], Any]:
    async def count() -> int:
        return sqs.in_flight

    return count


async def test_an_event_one_second_after_the_signal_is_applied_or_visible() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running() as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        await platform.buckets.put_records(fresh_record("e", "g"))
        await sqs.wait_for_calls("ReceiveMessage")
        tracker.terminate()
        await tracker.wait_for_log("process.stopping")
        await asyncio.sleep(1)  # the delay is the subject of the test
        sqs.send(ses_events.notification(ses_events.delivery("g/e", at(5))))
        assert await tracker.wait() == 0
        await sqs.wait_for_no_connections()
        record = await platform.buckets.record("e")
        assert record
        assert (record["delivered"], sqs.visible, sqs.in_flight) in {(True, 0, 0), (False, 1, 0)}


async def test_events_are_held_while_their_bucket_is_missing() -> None:
    async with (
        services.platform() as platform,
        sqs_endpoints.running(max_receive_count=1) as sqs,
        services.tracker(platform.nats, sqs) as tracker,
    ):
        await platform.buckets.delete()
        sqs.send(ses_events.notification(ses_events.delivery("g/e", at(5))))
        await tracker.wait_for_log("event.postponed", count=2)
        await platform.buckets.create()
        await platform.buckets.put_records(fresh_record("e", "g"))
        await sqs.wait_until_empty()
        assert await platform.buckets.record("e") == fresh_record("e", "g") | delivered(5)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Callers who do not know the newer fields get the very bytes of before: of records, replies and push events.

`unchanged_bytes.json` was written by `observed` with the code of commit 58954dfd, which had none of these fields. Only
they may be added since; do not write the file again.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from shared import contract, group_index
from tracker.events import ses_event
from tracker.queries.email_analytics_handler import EmailAnalyticsHandler
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.msg import Msg

    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tracker.events.record_updater import RecordUpdater

    Handler = Callable[[bytes], Awaitable[bytes]]

BEFORE: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "unchanged_bytes.json").read_text())
ADDED: Final = re.compile(r',"complained_at":"[^"]*"')
RECEIVED: Final = datetime(2026, 1, 2, tzinfo=UTC)


def fresh(**fields: object) -> dict[str, object]:
    """Return a record as the relay of that commit wrote it; `email_id` is the name of the case."""
    first = {
        "group_id": "invites",
        "to": "Zoë <zoe@example.com>",
        "subject": "Grüße",
        "sent_at": "2026-01-02T03:04:05Z",
    }
    counts = {"delivered": False, "opened": False, "open_count": 0, "clicked": False, "click_count": 0, "failed": False}
    return first | counts | fields


OF_GO: Final[dict[str, object]] = {
    "group_id": "invites",
    "to": "go@example.com",
    "subject": "From Go",
    "sent_at": "2026-01-02T03:04:05.123456789Z",
    "delivered": True,
    "delivered_at": "2026-01-02T03:04:07.5Z",
    "opened": True,
    "opened_at_list": [{"event_id": "go-2", "opened_at": "2026-01-02T04:00:00Z"}],
    "last_opened_at": "2026-01-02T04:00:00Z",
    "clicked": True,
    "click_count": 1,
    "click_event_ids": ["go-3"],
    "last_clicked_at": "2026-01-02T05:00:00Z",
    "failed": False,
    "failed_at": None,
    "of_a_newer_service": {"b": [1, 2.50], "a": "ü"},
}
RECORDS: Final[dict[str, dict[str, object]]] = {
    "delivered": fresh(),
    "opened": fresh(),
    "clicked": fresh(tags={"campaign": "spring"}),
    "bounced": fresh(),
    "bounced-twice": fresh(tags={"campaign": "spring"}),
    "complained": fresh(),
    "complained-then-bounced": fresh(),
    "everything": fresh(group_id="a..b", tags={"b": "1", "a": "2"}),
    "ignored": fresh(),
    "of-go": OF_GO,
    "of-go-failed": OF_GO | {"failed": True, "failed_at": "2026-01-02T03:05:00Z"},
}
BOUNCE: Final[dict[str, object]] = {
    "bounceType": "Permanent",
    "bounceSubType": "General",
    "bouncedRecipients": [{"emailAddress": "zoe@example.com", "diagnosticCode": "smtp; 550 5.1.1 unknown «user»"}],
}
ABUSE: Final[dict[str, object]] = {"complaintFeedbackType": "abuse", "complaintSubType": None}
LINK: Final = "https://user:secret@lfx.dev/meeting?token=secret#part"
Happened = tuple[str, str, int, dict[str, object]]
EVENTS: Final[dict[str, list[Happened]]] = {
    "delivered": [("Delivery", "m1", 9, {}), ("Delivery", "m2", 2, {}), ("Delivery", "m1", 9, {})],
    "opened": [("Open", "m2", 20, {}), ("Open", "m1", 10, {}), ("Open", "m2", 20, {})],
    "clicked": [("Click", "m1", 11, {"link": LINK}), ("Click", "m2", 12, {"link": None})],
    "bounced": [("Bounce", "m1", 3, BOUNCE), ("Bounce", "m1", 3, BOUNCE)],
    "bounced-twice": [("Bounce", "m1", 3, {"bounceType": "Transient"}), ("Bounce", "m2", 4, BOUNCE)],
    "complained": [("Complaint", "m1", 40, ABUSE), ("Complaint", "m1", 40, ABUSE), ("Complaint", "m2", 41, {})],
    "complained-then-bounced": [("Complaint", "m1", 40, ABUSE), ("Bounce", "m2", 30, BOUNCE)],
    "everything": [
        ("Delivery", "m1", 2, {}),
        ("Open", "m2", 5, {}),
        ("Click", "m3", 6, {"link": LINK}),
        ("Complaint", "m4", 7, {"complaintSubType": "OnAccountSuppressionList"}),
    ],
    "ignored": [("Send", "m1", 1, {}), ("Rendering Failure", "m2", 2, {}), ("Subscription", "m3", 3, {})],
    "of-go": [("Delivery", "m1", 1, {}), ("Open", "m2", 10, {}), ("Click", "go-3", 11, {}), ("Click", "m3", 12, {})],
    "of-go-failed": [("Bounce", "m1", 90, BOUNCE), ("Bounce", "m2", 1, BOUNCE)],
}
QUERIES: Final[tuple[tuple[str, str], ...]] = (
    *(("status", f'{{"email_id":"{name}"}}') for name in RECORDS),
    ("status", '{"group_id":"invites"}'),
    ("status", '{"group_id":"invites","offset":1,"limit":2}'),
    ("status", '{"group_id":"a..b"}'),
    ("status", '{"group_id":"INVITES"}'),
    ("status", '{"email_id":"delivered","group_id":"invites"}'),
    ("status", '{"email_id":"delivered","group_id":"other"}'),
    ("status", '{"email_id":"","group_id":null}'),
    ("status", '{"email_id":"  "}'),
    ("status", '{"email_id":"none"}'),
    ("status", '{"group_id":" "}'),
    ("status", '{"group_id":"invites","limit":0.5}'),
    ("status", '{"email_id":7}'),
    ("analytics", '{"group_id":"invites"}'),
    ("analytics", '{"group_id":"none"}'),
    ("analytics", "{}"),
)


def body(name: str, happened: Happened) -> str:
    """Return an event in the envelope of SNS."""
    event_type, event_id, second, detail = happened
    mail = {"headers": [{"name": "X-LFX-TRACKING-ID", "value": f"group/{name}"}], "destination": ["zoe@example.com"]}
    detail = {"timestamp": f"2026-01-02T03:04:{second % 60:02}.250Z"} | detail
    event = {"eventType": event_type, "mail": mail, event_type.lower(): detail}
    return json.dumps({"Type": "Notification", "MessageId": event_id, "Message": json.dumps(event)})


async def observed(
    connection: Connection, inbox: Inbox, recipients: Bucket, index: Bucket, updater: RecordUpdater
) -> dict[str, Any]:
    """Apply all events, one by one, ask all queries, and return the bytes that came of it, as text."""
    pushed: list[Msg] = []
    await connection.subscribe("lfx.email-service.*", pushed.append)
    for name, record in RECORDS.items():
        await recipients.create(name, json.dumps({"email_id": name} | record, ensure_ascii=False).encode())
    for group_id in ("invites", "a..b"):
        members = [name for name, record in RECORDS.items() if record["group_id"] == group_id]
        await index.create(group_index.key_of(group_id), group_index.encode(members))
    for name, happened in EVENTS.items():
        for one in happened:
            event = ses_event.parse(body(name, one), message_id="sqs", received_at=RECEIVED)
            if isinstance(event, ses_event.EngagementEvent):
                await updater.apply(event.email_id, [event])
    await connection.flush()
    return {
        "records": {name: (await recipients.get_from_leader(name)).value.decode() for name in RECORDS},
        "pushed": [[one.subject, one.data.decode()] for one in pushed],
        "replies": await replies(connection, inbox, recipients, index),
    }


async def replies(
    connection: Connection, inbox: Inbox, recipients: Bucket, index: Bucket
) -> list[tuple[str, str, str]]:
    groups = GroupReader(recipients, index)
    counts = LiveCounts(groups, recipients, index, partial(StreamFollower, connection, inbox))
    handlers: dict[str, Handler] = {
        "status": EmailStatusHandler(recipients, groups, connection.payload_limit),
        "analytics": EmailAnalyticsHandler(counts.count),
    }
    found = [(query, request, (await handlers[query](request.encode())).decode()) for query, request in QUERIES]
    await counts.aclose()
    return found


async def test_records_push_events_and_replies_are_those_of_before_apart_from_added_fields(
    connection: Connection, inbox: Inbox, recipients: Bucket, index: Bucket, updater: RecordUpdater
) -> None:
    now = await observed(connection, inbox, recipients, index, updater)
    assert {name: ADDED.sub("", value) for name, value in now["records"].items()} == BEFORE["records"]
    assert now["pushed"] == BEFORE["pushed"]
    assert [[*asked, ADDED.sub("", reply)] for *asked, reply in now["replies"]] == BEFORE["replies"]
    changed = {name for name, value in now["records"].items() if value != BEFORE["records"][name]}
    assert changed <= {name for name in RECORDS if any(one[0] == "Complaint" for one in EVENTS[name])}


@pytest.mark.parametrize(("kind", "written"), BEFORE["encoded"])
def test_a_struct_of_the_contract_without_newer_fields_is_encoded_as_before(kind: str, written: str) -> None:
    decoded = msgspec.json.decode(written, type=getattr(contract, kind))
    assert msgspec.json.encode(decoded).decode() == written

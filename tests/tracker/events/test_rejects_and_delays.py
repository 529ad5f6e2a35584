# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A reject and a delay of SES are read in every form, with the details that are there."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET

from shared.contract import Delay, Failure
from tests.stack import ses_events
from tests.tracker.examples import AT, TRACKING_ID
from tracker.events import ses_event
from tracker.events.ses_event import EngagementEvent

if TYPE_CHECKING:
    from msgspec import UnsetType

SENT_TO_QUEUE = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
SES_TIMES = ("2026-01-02T03:04:05.678Z", datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC))
REJECT = ses_events.reject(TRACKING_ID, AT)
DELAY = ses_events.delivery_delay(TRACKING_ID, AT)
DETAILS = DELAY["deliveryDelay"]


def raw(body: dict[str, Any]) -> EngagementEvent:
    found = ses_event.parse(json.dumps(body), message_id="sqs", received_at=SENT_TO_QUEUE)
    if not isinstance(found, EngagementEvent):
        raise TypeError(found.reason)
    return found


@pytest.mark.parametrize(
    ("name", "reject", "diagnostic"),
    [
        ("Reject", {"reason": "Bad content"}, "Bad content"),
        ("REJECT", {"Reason": "Bad content"}, "Bad content"),
        ("reject", {"reason": ""}, UNSET),
        ("Reject", {"reason": ["Bad content"]}, UNSET),
        ("Reject", {}, UNSET),
        ("Reject", [], UNSET),
        (" Email Rejected", None, UNSET),
    ],
)
def test_a_reject_is_a_failure_at_the_time_of_its_mail_with_the_reason_of_ses(
    name: str, reject: object, diagnostic: str | UnsetType
) -> None:
    event = raw({**REJECT, "eventType": name, "reject": reject})
    assert event.failure == Failure(kind="reject", diagnostic=diagnostic)
    assert event.at == AT
    assert (event.recipients, event.destination) == ((), ())


@pytest.mark.parametrize(
    ("sent", "of_its_own", "at"),
    [
        (SES_TIMES[0], None, SES_TIMES[1]),
        (SES_TIMES[0], "2026-01-02T03:04:05Z", AT),
        ("0001-01-01T00:00:00Z", None, SENT_TO_QUEUE),
        (None, 5, SENT_TO_QUEUE),
    ],
)
def test_a_reject_without_a_time_of_its_mail_has_that_of_its_message(
    sent: object, of_its_own: object, at: object
) -> None:
    mail = {**REJECT["mail"], "timestamp": sent}
    assert raw({**REJECT, "mail": mail, "reject": {"timestamp": of_its_own}}).at == at


@pytest.mark.parametrize(
    "name",
    ["DeliveryDelay", "Delivery Delay", "deliverydelay", "DELIVERY_DELAY", "delivery-delay", "Email Delivery Delayed"],
)
@pytest.mark.parametrize("details", ["deliveryDelay", "DeliveryDelay", "delivery_delay", "DELIVERYDELAY"])
def test_a_delay_is_read_in_each_spelling(name: str, details: str) -> None:
    event = raw({"eventType": name, "mail": DELAY["mail"], details: DETAILS})
    assert event.kind == "delay"
    assert event.at == AT
    assert event.delay == Delay(
        type="MailboxFull", at=AT, until=AT + timedelta(hours=12), diagnostic="smtp; 452 4.2.2 mailbox full"
    )


@pytest.mark.parametrize(
    ("details", "delay"),
    [
        (None, Delay(at=SENT_TO_QUEUE)),
        ([], Delay(at=SENT_TO_QUEUE)),
        ({}, Delay(at=SENT_TO_QUEUE)),
        ({"timestamp": SES_TIMES[0]}, Delay(at=SES_TIMES[1])),
        ({"delayType": ["x"], "expirationTime": 5, "delayedRecipients": {}}, Delay(at=SENT_TO_QUEUE)),
        ({"delayType": "", "expirationTime": "soon", "delayedRecipients": [None]}, Delay(at=SENT_TO_QUEUE)),
        ({"expirationTime": "0001-01-01T00:00:00Z", "delayedRecipients": []}, Delay(at=SENT_TO_QUEUE)),
        (
            {"DelayType": "Other", "delayed_recipients": [{"Diagnostic Code": "421"}, {"diagnosticCode": "422"}]},
            Delay(type="Other", at=SENT_TO_QUEUE, diagnostic="421"),
        ),
    ],
)
def test_a_delay_has_the_details_of_ses_and_no_others(details: object, delay: Delay) -> None:
    assert raw({**DELAY, "deliveryDelay": details}).delay == delay


def test_an_event_other_than_a_delay_has_no_delay() -> None:
    assert raw({**REJECT, "deliveryDelay": DETAILS}).delay is None


@pytest.mark.parametrize(
    ("name", "event", "kind"), [("Email Rejected", REJECT, "reject"), ("Email Delivery Delayed", DELAY, "delay")]
)
def test_a_detail_type_of_eventbridge_names_the_kind(name: str, event: dict[str, Any], kind: str) -> None:
    event = {field: value for field, value in event.items() if field != "eventType"}
    found = raw({"id": "bridge", "detail-type": name, "time": SES_TIMES[0], "detail": event})
    assert (found.kind, found.event_id, found.at) == (kind, "bridge", AT)

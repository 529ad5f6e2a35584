# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An event is found inside any envelopes, and its id and time are those of the innermost one that has them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import ses_events
from tests.tracker.examples import AT, EMAIL, TRACKING_ID
from tracker.events import envelope, ses_event
from tracker.events.ses_event import MAX_LISTS, EngagementEvent, Ignored, Several

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN = ses_events.open_(TRACKING_ID, AT)
TIMELESS = {**OPEN, "open": {}}
RECEIVED_AT = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
SENT_AT = datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC)
SENT = {"ISO": "2026-01-02T03:04:07.000Z", "milliseconds": "1767323047000"}


def read(body: object) -> EngagementEvent | Ignored:
    text = body if isinstance(body, str) else json.dumps(body)
    return ses_event.parse(text, message_id="queue-id", received_at=RECEIVED_AT)


def event_in(body: object) -> EngagementEvent:
    found = read(body)
    if isinstance(found, Ignored):
        raise TypeError(found.reason)
    return found


def sns(contents: object, message_id: str | None = "sns-id") -> dict[str, Any]:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    envelope = {"Type": "Notification", "TopicArn": "arn:t", "Message": text, "Timestamp": SENT["ISO"]}
    return {**envelope, "MessageId": message_id} if message_id else envelope


def event_bridge(contents: object, event_id: str = "bridge-id") -> dict[str, Any]:
    head = {"version": "0", "id": event_id, "detail-type": "Email Opened", "source": "aws.ses", "account": "0"}
    return {**head, "time": SENT["ISO"], "region": "us-west-2", "resources": [], "detail": contents}


def lambda_sns(contents: object, message_id: str = "sns-id") -> dict[str, Any]:
    return {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": sns(contents, message_id)}]}


def pipes(contents: object, message_id: str = "sqs-id") -> list[dict[str, Any]]:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    attributes = {"SentTimestamp": SENT["milliseconds"], "ApproximateReceiveCount": "1"}
    return [{"messageId": message_id, "receiptHandle": "h", "body": text, "attributes": attributes}]


def twice_as_json(contents: object) -> str:
    return json.dumps(json.dumps(contents))


FORMS: list[tuple[str, object, str]] = [
    ("raw", TIMELESS, "queue-id"),
    ("SNS", sns(TIMELESS), "sns-id"),
    ("SNS without an id in SNS", sns(sns(TIMELESS, None), "outer"), "outer"),
    ("SNS in SNS", sns(sns(TIMELESS, "inner"), "outer"), "inner"),
    ("SNS in SNS in SNS", sns(sns(sns(TIMELESS, "inner"), "b"), "a"), "inner"),
    ("SNS as a string", json.dumps(json.dumps(sns(TIMELESS))), "sns-id"),
    ("SNS as a string, twice", json.dumps(twice_as_json(sns(TIMELESS))), "sns-id"),
    ("the event as a string, twice", twice_as_json(TIMELESS), "queue-id"),
    ("SNS with the event as a string, twice", sns(twice_as_json(TIMELESS)), "sns-id"),
    ("EventBridge", event_bridge(TIMELESS), "bridge-id"),
    ("EventBridge with the event as a string", event_bridge(json.dumps(TIMELESS)), "bridge-id"),
    ("EventBridge in SNS", sns(event_bridge(TIMELESS), "outer"), "bridge-id"),
    ("SNS in EventBridge", event_bridge(sns(TIMELESS)), "sns-id"),
    ("a list of one", [TIMELESS], "queue-id"),
    ("a list of one in SNS", sns([TIMELESS]), "sns-id"),
    ("Pipes", pipes(TIMELESS), "sqs-id"),
    ("Pipes with SNS", pipes(sns(TIMELESS)), "sns-id"),
    ("one message of Pipes", pipes(sns(TIMELESS))[0], "sns-id"),
    ("Lambda's SQS event", {"Records": pipes(sns(TIMELESS))}, "sns-id"),
    ("Lambda's SNS event", lambda_sns(TIMELESS), "sns-id"),
    ("Lambda's SNS event in SQS in Pipes", pipes(lambda_sns(TIMELESS)), "sns-id"),
    ("Records of events", {"Records": [TIMELESS]}, "queue-id"),
    ("an answer of SQS", {"Messages": [{"MessageId": "sqs-id", "Body": json.dumps(TIMELESS)}]}, "sqs-id"),
    ("SNS with a number as id", {**sns(TIMELESS), "MessageId": 12345678901234567890}, "12345678901234567890"),
    ("names in other spellings", {"message": json.dumps(TIMELESS), "Message_ID": "sns-id"}, "sns-id"),
]


@pytest.mark.parametrize(("body", "event_id"), [one[1:] for one in FORMS], ids=[one[0] for one in FORMS])
def test_an_event_in_any_envelope_has_the_innermost_id(body: object, event_id: str) -> None:
    event = event_in(body)
    assert (event.kind, event.email_id, event.event_id) == ("open", EMAIL, event_id)


@pytest.mark.parametrize("kind", ["delivery", "open", "click", "bounce", "complaint"])
def test_an_event_of_event_bridge_needs_no_type_of_its_own(kind: str) -> None:
    names = {"delivery": "Delivered", "open": "Opened", "click": "Clicked", "bounce": "Bounced"}
    make: Callable[..., dict[str, Any]] = getattr(ses_events, {"open": "open_"}.get(kind, kind))
    event = make(TRACKING_ID, AT)
    wrapped = event_bridge({name: value for name, value in event.items() if name != "eventType"})
    assert event_in({**wrapped, "detail-type": f"Email {names.get(kind, 'Complaint Received')}"}).kind == kind
    assert event_in({**event_bridge(event), "detail-type": "Email Sent"}).kind == kind


def test_an_event_bridge_event_that_is_not_counted_is_expected() -> None:
    body = {**event_bridge({"mail": OPEN["mail"]}), "detail-type": "Email Sent"}
    assert read(body) == Ignored("event type 'email sent'", is_expected=True)


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (sns(TIMELESS), SENT_AT),
        (event_bridge(TIMELESS), SENT_AT),
        (pipes(TIMELESS), SENT_AT),
        (sns({**sns(TIMELESS), "Timestamp": "0001-01-01T00:00:00Z"}), SENT_AT),
        ({**sns(TIMELESS), "Timestamp": "1970-01-01T00:00:00Z"}, RECEIVED_AT),
        ({**pipes(TIMELESS)[0], "attributes": {"SentTimestamp": 0}}, RECEIVED_AT),
        ({**pipes(TIMELESS)[0], "attributes": {"SentTimestamp": "9" * 400}}, RECEIVED_AT),
        (event_bridge(OPEN), AT),
    ],
    ids=range(8),
)
def test_an_event_without_a_time_has_that_of_the_innermost_envelope_with_one(body: object, at: datetime) -> None:
    assert event_in(body).at == at


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"Records": []}, "Records is not a JSON object"),
        ({"detail": None}, "detail is not a JSON object"),
        ([[[[[[[[[[[[[[[[[[OPEN]]]]]]]]]]]]]]]]]], "the event is in too many envelopes"),
    ],
    ids=range(3),
)
def test_a_body_without_one_event_is_ignored_with_the_reason(body: object, reason: str) -> None:
    assert read(body) == Ignored(reason)


def test_envelopes_are_opened_up_to_a_limit() -> None:
    body: object = OPEN
    for _ in range(envelope.MAX_TEXTS - 1):
        body = sns(body)
    assert event_in(body).kind == "open"
    assert read(sns(sns(body))) == Ignored("the event is in too many envelopes")


@pytest.mark.parametrize("broken", [r"\ud83d", "\ud83d", "\t\n\0", r"\x"], ids=range(4))
@pytest.mark.parametrize("place", ["subject", "user agent", "body around it"])
def test_text_that_strict_json_refuses_does_not_hide_the_event(broken: str, place: str) -> None:
    subject = {"name": "Subject", "value": "MARK" if place == "subject" else "Hello"}
    event = {**OPEN, "mail": {**OPEN["mail"], "headers": [subject, *OPEN["mail"]["headers"]]}}
    event = {**event, "open": {"timestamp": SENT["ISO"], "userAgent": "MARK" if place == "user agent" else ""}}
    broken_event = json.dumps(event).replace("MARK", broken)
    around = "MARK" if place == "body around it" else ""
    outer = json.dumps({"Subject": around, "Message": broken_event, "MessageId": "m"}).replace("MARK", broken)
    for body in (broken_event, outer, json.dumps(outer), json.dumps(sns(outer), ensure_ascii=False)):
        assert event_in(body).email_id == EMAIL


@pytest.mark.parametrize("shape", ['"' * 262_144, "[" * 262_144, "\\" * 262_144, '{"Message":' * 23_000])
def test_a_hostile_body_takes_little_time_at_any_level(shape: str) -> None:
    body: object = shape
    started = time.process_time()
    for _ in range(4):
        body = sns(body) if len(str(body)) < 4 << 20 else body
        assert isinstance(read(body), Ignored)
    assert time.process_time() - started < 10


def test_a_list_of_several_events_has_them_all_each_with_an_id_of_its_own() -> None:
    several = read({"Records": [sns(OPEN, "first"), OPEN, [OPEN, {"no": "event"}]]})
    assert isinstance(several, Several)
    found = list(several.flat())
    ids = [one.event_id for one in found if not isinstance(one, Ignored)]
    assert ids == ["first", "queue-id-1", "queue-id-2-0"]
    assert isinstance(found[-1], Ignored)
    assert several.reason == "Records holds 3 elements instead of one"


def test_lists_in_lists_are_opened_up_to_a_limit() -> None:
    body: object = OPEN
    for _ in range(MAX_LISTS + 1):
        body = [body, body]
    several = read(body)
    assert isinstance(several, Several)
    assert {type(one) for one in several.flat()} == {Ignored}

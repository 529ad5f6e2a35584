# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A saved message is read in each form in which it can be saved, and its event has the id of the live event."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.stack import ses_events
from tests.tracker.examples import EMAIL, TRACKING_ID, at
from tracker.commands.json_documents import Broken
from tracker.commands.replay import saved_messages
from tracker.commands.replay.saved_messages import SavedMessage
from tracker.events.ses_event import EngagementEvent, Ignored

EVENT = ses_events.open_(TRACKING_ID, at(5))
BODY = ses_events.notification(EVENT, "sns-1")
RECEIVED = {"MessageId": "sqs-1", "ReceiptHandle": "h", "Body": BODY, "Attributes": {"SentTimestamp": "1767323045500"}}
SQS_RECORD = {
    "messageId": "sqs-1",
    "receiptHandle": "h",
    "body": BODY,
    "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1767323045500"},
    "messageAttributes": {},
    "md5OfBody": "0",
    "eventSource": "aws:sqs",
    "eventSourceARN": "arn:aws:sqs:us-west-2:000000000000:events",
    "awsRegion": "us-west-2",
}
SNS_RECORD = {
    "EventSource": "aws:sns",
    "EventVersion": "1.0",
    "EventSubscriptionArn": "arn:aws:sns:us-west-2:000000000000:ses:1",
    "Sns": json.loads(BODY) | {"MessageAttributes": {}},
}
LOWER_SNS = {name[0].lower() + name[1:]: field for name, field in json.loads(BODY).items()}
EVENT_BRIDGE = {"version": "0", "id": "e1", "detail-type": "Email Opened", "source": "aws.ses", "detail": EVENT}


def base64_of(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


LOGGED = json.dumps({"logEvents": [{"id": "1", "timestamp": 1767323045500, "message": BODY}]}).encode()
OF_FUNCTIONS = [
    ("a Lambda event of SQS", json.dumps({"Records": [SQS_RECORD]}), "sns-1"),
    ("pretty-printed", json.dumps({"Records": [SQS_RECORD, SQS_RECORD]}, indent=2), "sns-1"),
    ("a Lambda event of SNS", json.dumps({"Records": [SNS_RECORD]}), "sns-1"),
    ("one a line", f"{json.dumps({'Records': [SQS_RECORD]})}\n{json.dumps({'Records': [SNS_RECORD]})}\n", "sns-1"),
    ("without separators", json.dumps({"Records": [SQS_RECORD]}) + json.dumps({"Records": [SNS_RECORD]}), "sns-1"),
    ("in an array", json.dumps([{"Records": [SQS_RECORD]}, {"Records": [SNS_RECORD]}]), "sns-1"),
    ("as a string", json.dumps(json.dumps({"Records": [SNS_RECORD]})), "sns-1"),
    ("a record of SQS alone", json.dumps(SQS_RECORD), "sns-1"),
    ("a record of SNS alone", json.dumps(SNS_RECORD), "sns-1"),
    ("the batch of a pipe", json.dumps([SQS_RECORD, SQS_RECORD]), "sns-1"),
    ("in lower case", json.dumps({"records": [SQS_RECORD]}), "sns-1"),
    ("in upper case", json.dumps({"RECORDS": [{name.upper(): field for name, field in SQS_RECORD.items()}]}), "sns-1"),
    ("with underscores", json.dumps({"message_id": "sqs-1", "body": BODY}), "sns-1"),
    ("SNS as Java writes it", json.dumps({"records": [{"eventSource": "aws:sns", "sns": LOWER_SNS}]}), "sns-1"),
    ("SNS with a time in milliseconds", json.dumps({"sns": LOWER_SNS | {"timestamp": 1767323045500}}), "sns-1"),
    ("a notification with small letters", json.dumps(LOWER_SNS), "sns-1"),
    ("SQS with a raw event", json.dumps({"Records": [SQS_RECORD | {"body": json.dumps(EVENT)}]}), "sqs-1"),
    ("a failed invocation", json.dumps({"version": "1.0", "requestPayload": {"Records": [SQS_RECORD]}}), "sns-1"),
    ("a log line of a function", json.dumps({"level": "INFO", "message": {"Records": [SNS_RECORD]}}), "sns-1"),
    ("Kinesis", json.dumps({"Records": [{"kinesis": {"data": base64_of(BODY)}}]}), "sns-1"),
    ("Firehose", json.dumps({"invocationId": "1", "records": [{"recordId": "1", "data": base64_of(BODY)}]}), "sns-1"),
    ("CloudWatch Logs", json.dumps({"awslogs": {"data": base64_of(gzip.compress(LOGGED))}}), "sns-1"),
    ("CloudWatch Logs, filtered", json.dumps({"events": [{"timestamp": 1, "message": BODY}]}), "sns-1"),
]
ALL = [
    *OF_FUNCTIONS,
    ("a body a line", BODY, "sns-1"),
    ("a body as a string", json.dumps(BODY), "sns-1"),
    ("an array of bodies", f"[{BODY},\n{BODY}]", "sns-1"),
    ("an array of strings", json.dumps([BODY]), "sns-1"),
    ("a message", json.dumps(RECEIVED), "sns-1"),
    ("an array of messages", json.dumps([RECEIVED], indent=2), "sns-1"),
    ("what aws prints", json.dumps({"Messages": [RECEIVED]}, indent=4), "sns-1"),
    ("what aws prints, twice", json.dumps({"Messages": [RECEIVED]}) * 2, "sns-1"),
    ("with another key first", json.dumps({"Count": 1, "Messages": [RECEIVED]}), "sns-1"),
    ("a message whose body is unpacked", json.dumps(RECEIVED | {"Body": json.loads(BODY)}), "sns-1"),
    ("an event in a message", json.dumps(RECEIVED | {"Body": json.dumps(EVENT)}), "sqs-1"),
]


def read(text: str) -> list[SavedMessage | Broken]:
    return list(saved_messages.read([text]))


def events(text: str) -> list[EngagementEvent | Ignored]:
    return [saved_messages.event_of(one) for one in read(text) if isinstance(one, SavedMessage)]


@pytest.mark.parametrize(("text", "event_id"), [one[1:] for one in ALL], ids=[one[0] for one in ALL])
def test_each_form_contains_the_event_with_the_id_of_the_live_event(text: str, event_id: str) -> None:
    for event in events(text):
        assert isinstance(event, EngagementEvent)
        assert (event.email_id, event.event_id, event.at) == (EMAIL, event_id, at(5))
    assert events(text)


def test_the_id_of_a_bare_event_is_independent_of_spacing_and_order() -> None:
    reordered = dict(reversed(EVENT.items()))
    forms = [json.dumps(EVENT), json.dumps(EVENT, indent=3), json.dumps(reordered), json.dumps(json.dumps(EVENT))]
    ids = {event.event_id for form in forms for event in events(form) if isinstance(event, EngagementEvent)}
    other = events(json.dumps(ses_events.open_(TRACKING_ID, at(6))))[0]
    assert len(ids) == 1
    assert isinstance(other, EngagementEvent)
    assert other.event_id not in ids


def test_an_event_without_a_time_has_that_of_its_message_or_is_ignored() -> None:
    timeless: dict[str, Any] = EVENT | {"open": {}}
    [event] = events(json.dumps(RECEIVED | {"Body": json.dumps(timeless)}))
    assert isinstance(event, EngagementEvent)
    assert event.at == datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)
    assert events(json.dumps(timeless)) == [Ignored("neither the event nor its message has a time")]


@pytest.mark.parametrize("sent", ["soon", "9" * 30, None, {}])
def test_an_invalid_time_is_read_as_absent(sent: object) -> None:
    [message] = read(json.dumps(RECEIVED | {"Attributes": {"SentTimestamp": sent}}))
    assert isinstance(message, SavedMessage)
    assert message.sent_at is None


def test_an_encoded_message_is_read_as_the_same_message() -> None:
    for text in (json.dumps(RECEIVED), json.dumps(EVENT), "{}"):
        [message] = read(text)
        assert isinstance(message, SavedMessage)
        assert read(saved_messages.encode(message).decode()) == [message]


@pytest.mark.parametrize(
    "text", ['{"a": nope}', '{"Messages": [5]}', '{"x": "\\ud83d\\u0020"}', '{"a":' * 5000 + "1" + "}" * 5000]
)
def test_a_malformed_line_is_reported_and_the_next_one_read(text: str) -> None:
    found = read(f"\n{text}\n{BODY}")
    assert [one.line for one in found] == [2, 3]
    assert isinstance(found[1], SavedMessage)


def test_an_id_that_is_not_valid_unicode_does_not_affect_the_next_message() -> None:
    first, second = read(json.dumps({"Count": 2, "Messages": [RECEIVED | {"MessageId": "\ud800"}, RECEIVED]}))
    assert isinstance(first, Broken)
    assert first.line == 1
    assert isinstance(second, SavedMessage)


@pytest.mark.parametrize("link", ["https://x.org/\ud83d", "https://x.org/\udc00\t\x01"])
def test_half_a_surrogate_pair_becomes_a_replacement_character(link: str) -> None:
    clicked = ses_events.click(TRACKING_ID, at(5), link)
    for text in (json.dumps(clicked), json.dumps(RECEIVED | {"Body": clicked})):
        [event] = events(text)
        assert isinstance(event, EngagementEvent)
        assert event.link == link.replace("\ud83d", "\ufffd").replace("\udc00", "\ufffd")


def test_a_raw_control_character_in_a_text_is_accepted() -> None:
    clicked = ses_events.click(TRACKING_ID, at(5), "https://x.org/\t\x01\r")
    raw = json.dumps(clicked).replace("\\t", "\t").replace("\\u0001", "\x01").replace("\\r", "\r")
    for event in events(f"{raw}\n{raw}"):
        assert isinstance(event, EngagementEvent)
        assert event.link == "https://x.org/\t\x01\r"


def test_an_event_of_event_bridge_is_handed_over_unchanged() -> None:
    forms = [EVENT_BRIDGE, [EVENT_BRIDGE], {"records": [EVENT_BRIDGE]}, json.dumps(EVENT_BRIDGE)]
    forms += [{"Records": [SQS_RECORD | {"body": body}]} for body in (EVENT_BRIDGE, json.dumps(EVENT_BRIDGE))]
    forms += [{"events": [{"logStreamName": "s", "timestamp": 1, "message": json.dumps(EVENT_BRIDGE)}]}]
    for form in forms:
        [message] = read(json.dumps(form))
        assert isinstance(message, SavedMessage)
        assert json.loads(message.body) == EVENT_BRIDGE


def test_an_archive_without_separators_has_each_event() -> None:
    others = [ses_events.open_(TRACKING_ID, at(second)) for second in range(5)]
    for separator in ("", "\n", " ", "\r\n"):
        found = events(separator.join(map(json.dumps, others)))
        assert [event.at for event in found if isinstance(event, EngagementEvent)] == [
            at(second) for second in range(5)
        ]


def test_the_times_of_records_stand_in_for_those_of_their_events() -> None:
    timeless = json.dumps(EVENT | {"open": {}})
    sns = LOWER_SNS | {"message": timeless, "timestamp": 1767323045500}
    for record in (SQS_RECORD | {"body": timeless}, {"sns": sns}):
        [event] = events(json.dumps({"records": [record]}))
        assert isinstance(event, EngagementEvent)
        assert event.at == datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)


@pytest.mark.parametrize(
    "record", [5, None, [[[[[[[[[SQS_RECORD]]]]]]]]], {"data": "?"}, {"data": base64_of(b"\x1f\x8b0")}, {"s3": {}}]
)
def test_a_record_that_cannot_be_read_does_not_affect_the_next_one(record: object) -> None:
    first, second = read(json.dumps({"Records": [record, SQS_RECORD]}))
    assert isinstance(first, Broken) or isinstance(saved_messages.event_of(first), Ignored)
    assert isinstance(second, SavedMessage)
    assert read(json.dumps(SQS_RECORD)) == [second]


def test_an_empty_answer_has_no_messages() -> None:
    assert read('{"Messages": null}') == read('{"Messages": []}') == read("[]") == read('{"Records": []}') == []
    assert read('{"Count": 0, "messages": []}') == []


def test_a_batch_is_limited_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = read((BODY + "\n") * 5)
    assert [len(batch) for batch in saved_messages.batches(messages, 2)] == [2, 2, 1]
    monkeypatch.setattr(saved_messages, "MAX_BATCH_CHARACTERS", len(BODY))
    assert [len(batch) for batch in saved_messages.batches(messages, 9)] == [1] * 5

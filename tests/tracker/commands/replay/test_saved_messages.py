# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A saved message is read in each form in which it can be saved, and its event has the id of the live event."""

from __future__ import annotations

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
ALL = [
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


@pytest.mark.parametrize("broken", [{"MessageId": "\ud800", "Body": BODY}, {"Body": {"x": "\ud800"}}])
def test_a_message_that_is_not_valid_unicode_does_not_affect_the_next_one(broken: dict[str, Any]) -> None:
    first, second = read(json.dumps({"Count": 2, "Messages": [broken, RECEIVED]}))
    assert isinstance(first, Broken)
    assert first.line == 1
    assert isinstance(second, SavedMessage)


def test_an_empty_answer_has_no_messages() -> None:
    assert read('{"Messages": null}') == read('{"Messages": []}') == read("[]") == []


def test_a_batch_is_limited_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = read((BODY + "\n") * 5)
    assert [len(batch) for batch in saved_messages.batches(messages, 2)] == [2, 2, 1]
    monkeypatch.setattr(saved_messages, "MAX_BATCH_CHARACTERS", len(BODY))
    assert [len(batch) for batch in saved_messages.batches(messages, 9)] == [1] * 5

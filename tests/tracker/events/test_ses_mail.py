# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Headers, tags and details are found in each form in which SES, its stand-ins and other programs write them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.stack import ses_events
from tests.tracker.examples import AT, EMAIL, TO, TRACKING_ID
from tracker.events import rebuilt_record, ses_event
from tracker.events.ses_event import EngagementEvent

if TYPE_CHECKING:
    from tests.stack.ses_events import Event

HEADER = ses_events.TRACKING_HEADER
LATER = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
CLICK, BOUNCE = ses_events.click(TRACKING_ID, AT), ses_events.bounce(TRACKING_ID, AT, to=TO)


def read(event: Event) -> EngagementEvent:
    found = ses_event.parse(json.dumps(event), message_id="m", received_at=LATER)
    if not isinstance(found, EngagementEvent):
        raise TypeError(found.reason)
    return found


def changed(event: Event, field: str, **changes: Any) -> Event:
    """Return the event with other values in one of its objects."""
    return {**event, field: {**event[field], **changes}}


@pytest.mark.parametrize(
    "tags",
    [
        [{"name": "email_id", "value": EMAIL}],
        [{"Name": "campaign", "Value": "spring"}, {"Name": "email_id", "Value": EMAIL}],
        [{"Key": "email_id", "Value": [EMAIL]}],
        json.dumps({"email_id": [EMAIL]}),
        {"email_id": json.dumps([EMAIL])},
        [None, 5, "x", {}, {"name": "email_id", "value": EMAIL}],
    ],
)
def test_tags_are_found_in_an_object_and_in_a_list(tags: object) -> None:
    assert read(changed(CLICK, "mail", headers=[], tags=tags)).email_id == EMAIL


@pytest.mark.parametrize(
    "headers",
    [
        {HEADER: TRACKING_ID},
        {"From": TO, HEADER.lower(): TRACKING_ID},
        json.dumps([{"name": HEADER, "value": TRACKING_ID}]),
        [{"key": HEADER, "value": TRACKING_ID}],
    ],
)
def test_headers_are_found_in_a_list_and_in_an_object(headers: object) -> None:
    assert read(changed(CLICK, "mail", headers=headers, tags={})).email_id == EMAIL


@pytest.mark.parametrize("headers", [{}, [], "[]"])
def test_headers_without_the_tracking_header_are_not_missing(headers: object) -> None:
    with pytest.raises(TypeError, match=f"no {HEADER} header"):
        read(changed(CLICK, "mail", headers=headers, tags=None))


@pytest.mark.parametrize("field", ["mail", "click"])
def test_an_object_may_be_json_in_a_text(field: str) -> None:
    """As in columns of a table, or attributes of a message."""
    found, wanted = read({**CLICK, field: json.dumps(CLICK[field])}), read(CLICK)
    assert (found.email_id, found.at, found.link) == (wanted.email_id, wanted.at, wanted.link)


@pytest.mark.parametrize("text", ["{", "[", "{}x", '{"a":' * 100_000])
def test_a_text_that_only_begins_like_json_is_a_text(text: str) -> None:
    assert read({**CLICK, "click": text}).link == ""
    assert read(changed(CLICK, "mail", destination=text)).mail["destination"] == text


@pytest.mark.parametrize("recipients", [[TO], TO, {"emailAddress": TO}, json.dumps([{"emailAddress": TO}])])
def test_recipients_of_a_report_may_be_texts_or_a_single_one(recipients: object) -> None:
    assert read(changed(BOUNCE, "bounce", bouncedRecipients=recipients)).recipients == (TO,)


@pytest.mark.parametrize("at", [AT.timestamp(), int(AT.timestamp()) * 1000, str(int(AT.timestamp()))])
def test_a_time_may_be_a_number_since_1970(at: float | str) -> None:
    assert read(changed(CLICK, "click", timestamp=at)).at == AT.replace(microsecond=0)


def test_a_rebuilt_record_has_the_tags_of_a_list() -> None:
    tags = [{"name": "campaign", "value": "spring"}, {"name": "email_id", "value": EMAIL}]
    record = rebuilt_record.of_event(read(changed(CLICK, "mail", tags=tags)))
    assert record
    assert record.tags == {"campaign": "spring"}

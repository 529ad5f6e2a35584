# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A record that is made from an event has what the relay would have written, as far as SES reports it."""

from __future__ import annotations

from typing import Any

import pytest

from shared.contract import EmailRecipientRecord
from tests.stack import ses_events
from tests.tracker.examples import AT, EMAIL, GROUP, TO, TRACKING_ID, at
from tracker.events import rebuilt_record, ses_event
from tracker.events.ses_event import EngagementEvent


def rebuilt(tracking_id: str = TRACKING_ID, **mail: Any) -> EmailRecipientRecord | None:
    """Return the record of a delivery whose `mail` has these fields; None removes a field."""
    delivery = ses_events.delivery(tracking_id, at(3))
    fields = {**delivery["mail"], **mail}
    delivery["mail"] = {name: value for name, value in fields.items() if value is not None}
    event = ses_event.parse(ses_events.notification(delivery), message_id="m", received_at=at(9))
    assert isinstance(event, EngagementEvent)
    return rebuilt_record.of_event(event)


def test_the_record_has_the_ids_of_the_header_and_the_rest_of_the_mail() -> None:
    wanted = EmailRecipientRecord(email_id=EMAIL, group_id=GROUP, to=TO, subject="Your meeting", sent_at=at(1))
    assert rebuilt() == wanted


@pytest.mark.parametrize(
    ("given", "subject"),
    [
        ("=?utf-8?b?R3LDvMOfZQ==?=", "Grüße"),
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?LCBXZWx0?=", "Grüße, Welt"),
        ("Folded\r\n subject", "Folded subject"),
        ("=?nonsense?b?R3LDvMOfZQ==?=", "=?nonsense?b?R3LDvMOfZQ==?="),
        ("ü" * 600, "ü" * 499),
        ("", ""),
        (7, ""),
    ],
)
def test_the_subject_is_unfolded_decoded_and_not_longer_than_that_of_a_request(given: object, subject: str) -> None:
    record = rebuilt(commonHeaders={"subject": given}, headers=[{"name": "X-LFX-TRACKING-ID", "value": TRACKING_ID}])
    assert record
    assert record.subject == subject


def test_without_common_headers_the_subject_is_that_of_the_headers() -> None:
    record = rebuilt(commonHeaders=None)
    assert record
    assert record.subject == "Your meeting"


@pytest.mark.parametrize(
    ("mail", "to"),
    [
        ({"destination": "bare@example.com"}, "bare@example.com"),
        ({"destination": [], "commonHeaders": {"to": ["Ada <ada@example.com>"]}}, "Ada <ada@example.com>"),
        ({"destination": None, "commonHeaders": None}, TO),
        ({"destination": [None, {}], "commonHeaders": None}, TO),
        ({"destination": ["a" * 600]}, "a" * 512),
    ],
)
def test_the_recipient_is_that_of_the_envelope_or_else_of_the_headers(mail: dict[str, Any], to: str) -> None:
    record = rebuilt(**mail)
    assert record
    assert record.to == to


def test_the_tags_are_those_of_the_request() -> None:
    tags = {
        "email_id": [EMAIL],
        "traceparent": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        "ses:source-ip": ["192.0.2.1"],
        "campaign": ["spring"],
        "bare": "text",
        "strange": ["a b"],
        "empty": [],
    }
    record = rebuilt(tags=tags)
    assert record
    assert record.tags == {"campaign": "spring", "bare": "text"}


@pytest.mark.parametrize("sent", [None, "0001-01-01T00:00:00Z", "yesterday"])
def test_without_a_usable_time_of_the_mail_the_time_of_the_event_counts(sent: str | None) -> None:
    record = rebuilt(timestamp=sent)
    assert record
    assert record.sent_at == at(3)


@pytest.mark.parametrize(
    ("tracking_id", "group_id"),
    [
        (f"a%20b/{EMAIL}", "a b"),
        (f"a/b/{EMAIL}", "a/b"),
        (f"  padded/{EMAIL} ", "padded"),
        (f"fold\r\n ed/{EMAIL}", "folded"),
        (f"=?utf-8?q?plain=2F{EMAIL}?=", "plain"),
        (f"50%25/{EMAIL}", "50%"),
        (f"50%ff/{EMAIL}", "50%ff"),
        (f"Go with blanks/{EMAIL}", "Go with blanks"),
    ],
)
def test_the_group_is_read_in_each_form_of_the_header(tracking_id: str, group_id: str) -> None:
    record = rebuilt(tracking_id)
    assert record
    assert record.group_id == group_id


@pytest.mark.parametrize("tracking_id", [f"/{EMAIL}", EMAIL, f"{'g' * 256}/{EMAIL}", f"a%00b/{EMAIL}"])
def test_without_a_valid_group_there_is_no_record(tracking_id: str) -> None:
    assert rebuilt(tracking_id) is None


def test_an_event_without_headers_makes_no_record() -> None:
    assert rebuilt(headers=[], headersTruncated=True) is None


def test_all_events_of_an_email_make_the_same_record() -> None:
    mail = ses_events.mail(TRACKING_ID, AT)
    made = set()
    for event in (ses_events.delivery(TRACKING_ID, at(3)), ses_events.open_(TRACKING_ID, at(5))):
        body = ses_events.notification({**event, "mail": mail})
        parsed = ses_event.parse(body, message_id="m", received_at=at(9))
        assert isinstance(parsed, EngagementEvent)
        made.add(str(rebuilt_record.of_event(parsed)))
    assert len(made) == 1

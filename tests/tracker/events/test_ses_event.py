# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An engagement event is read in every form; any other message body is ignored with a reason."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from shared import group_index
from shared.contract import Failure
from tests.stack import ses_events
from tests.tracker import examples
from tests.tracker.examples import AT, EMAIL, TO, TRACKING_ID
from tracker.events import engagement, records, ses_event
from tracker.events.ses_event import EngagementEvent, Ignored

if TYPE_CHECKING:
    from collections.abc import Iterator

PROPERTY = settings(max_examples=120)
SENT_TO_QUEUE = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
QUEUE_ID = "sqs-message-id"
HEADER = "X-LFX-TRACKING-ID"
SES_TIMES = ("2026-01-02T03:04:05.678Z", datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC))
EVERY_KIND = {
    "delivery": ses_events.delivery(TRACKING_ID, AT),
    "open": ses_events.open_(TRACKING_ID, AT),
    "click": ses_events.click(TRACKING_ID, AT),
    "bounce": ses_events.bounce(TRACKING_ID, AT),
    "complaint": ses_events.complaint(TRACKING_ID, AT),
    "reject": ses_events.reject(TRACKING_ID, AT),
    "delay": ses_events.delivery_delay(TRACKING_ID, AT),
}


def read(body: str) -> EngagementEvent | Ignored:
    return ses_event.parse(body, message_id=QUEUE_ID, received_at=SENT_TO_QUEUE)


def understood(event: dict[str, Any], **envelope: object) -> EngagementEvent:
    """Read an event in an SNS envelope."""
    body = {**json.loads(ses_events.notification(event, "sns-message-id")), **envelope}
    return raw({name: value for name, value in body.items() if value is not None})


def raw(body: dict[str, Any]) -> EngagementEvent:
    found = read(json.dumps(body))
    if isinstance(found, Ignored):
        raise TypeError(found.reason)
    return found


def ignored(body: dict[str, Any] | str) -> Ignored:
    found = read(body if isinstance(body, str) else json.dumps(body))
    if isinstance(found, EngagementEvent):
        raise TypeError(found)
    return found


def with_headers(*headers: object, **mail: object) -> dict[str, Any]:
    """A delivery whose mail has these headers and no tags."""
    return {**EVERY_KIND["delivery"], "mail": {"headers": list(headers), **mail}}


def header(value: object, name: str = HEADER) -> dict[str, object]:
    return {"name": name, "value": value}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_event_in_an_sns_envelope_is_known_by_the_id_of_its_notification(kind: str) -> None:
    event = understood(EVERY_KIND[kind])
    assert (event.kind, event.email_id, event.event_id, event.at) == (kind, EMAIL, "sns-message-id", AT)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_envelope_may_hold_the_event_as_an_object(kind: str) -> None:
    assert understood(EVERY_KIND[kind], Message=EVERY_KIND[kind]) == understood(EVERY_KIND[kind])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_event_without_envelope_is_known_by_the_id_of_its_sqs_message(kind: str) -> None:
    event = raw(EVERY_KIND[kind])
    assert (event.kind, event.email_id, event.event_id, event.at) == (kind, EMAIL, QUEUE_ID, AT)


@pytest.mark.parametrize("message_id", [None, "", " \n", True, 5.5, ["x"]])
def test_an_event_in_an_envelope_without_an_id_gets_the_id_of_the_sqs_message(message_id: object) -> None:
    assert understood(EVERY_KIND["open"], MessageId=message_id).event_id == QUEUE_ID


@pytest.mark.parametrize(
    ("name", "event_type"),
    [
        ("eventType", "Open"),
        ("notificationType", "OPEN"),
        ("EventType", "open"),
        ("NOTIFICATIONTYPE", "Open"),
        ("eventtype", "OPEN"),
        (" eventType ", " Open "),
        ("event_type", "open\n"),
        ("Event-Type", "\topen"),
        ("event type", "\0Open\0"),
        ("\ufeffeventType", "\u00a0Open"),
    ],
)
def test_either_name_of_the_type_is_read_in_any_case(name: str, event_type: str) -> None:
    event = {field: value for field, value in EVERY_KIND["open"].items() if field != "eventType"}
    assert understood({name: event_type, **event}).kind == "open"


@pytest.mark.parametrize("event_type", [None, "", 7, {}])
def test_a_type_that_is_not_a_text_is_read_from_the_other_name(event_type: object) -> None:
    assert raw({**EVERY_KIND["bounce"], "eventType": event_type, "notificationType": "Bounce"}).kind == "bounce"


def test_a_bounce_under_the_older_name_is_a_failure() -> None:
    bounce = {"bounceType": "Permanent", "timestamp": SES_TIMES[0]}
    event = raw({"notificationType": "Bounce", "bounce": bounce, "mail": {"headers": [header(TRACKING_ID)]}})
    assert event.failure == Failure(kind="bounce", type="Permanent")
    assert event.at == SES_TIMES[1]


def test_the_details_of_an_event_are_found_in_any_case() -> None:
    event = {name.upper(): value for name, value in EVERY_KIND["click"].items()}
    assert raw(event).link == EVERY_KIND["click"]["click"]["link"]


def test_the_names_inside_mail_and_details_are_found_in_other_spellings() -> None:
    mail = {"Headers": [{" Name": HEADER, "VALUE ": TRACKING_ID}]}
    bounce = {"bounce_type": "Permanent", "TimeStamp": SES_TIMES[0], "Bounced Recipients": [{"diagnostic-code": "550"}]}
    event = raw({"event_type": "bounce ", " mail": mail, "Bounce": bounce})
    assert (event.email_id, event.at) == (EMAIL, SES_TIMES[1])
    assert event.failure == Failure(kind="bounce", type="Permanent", diagnostic="550")


def test_the_sentence_of_an_attached_topic_is_expected() -> None:
    sentence = "Successfully validated SNS topic for Amazon SES event publishing."
    envelope = {"Type": "Notification", "MessageId": "m", "Message": sentence}
    for body in (envelope, sentence, f'"{sentence}"\n'):
        assert ignored(body) == Ignored("SES has attached the topic", is_expected=True)


@pytest.mark.parametrize("message", [None, "You have chosen to subscribe to the topic", 5])
def test_an_unconfirmed_subscription_is_a_warning(message: object) -> None:
    body = {"Type": "SubscriptionConfirmation", "MessageId": "m", "Token": "t", "Message": message}
    if message is None:
        del body["Message"]
    found = ignored(body)
    assert "confirmed" in found.reason
    assert not found.is_expected


@pytest.mark.parametrize(
    "value",
    [
        f"\r\n {TRACKING_ID}",
        f" {TRACKING_ID} ",
        f"\t{TRACKING_ID}\r\n",
        f"g/\r\n {EMAIL}",
        f"a/b/{EMAIL}",
        f"=?utf-8?q?g=C3=A9/{EMAIL}?=",
        f"/{EMAIL}",
    ],
)
def test_folding_and_padding_of_the_echoed_value_are_removed(value: str) -> None:
    assert raw(with_headers(header(None, "List-Id"), header("null", "X-Null"), header(value))).email_id == EMAIL


@pytest.mark.parametrize("name", [HEADER, "x-lfx-tracking-id", "X-Lfx-Tracking-Id", " X-LFX-TRACKING-ID "])
def test_the_header_is_found_in_any_case(name: str) -> None:
    assert raw(with_headers(header("x", "From"), header(TRACKING_ID, name))).email_id == EMAIL


def test_an_email_id_that_comes_back_in_capitals_is_that_of_the_record() -> None:
    assert raw(with_headers(header(TRACKING_ID.upper()))).email_id == EMAIL
    assert raw(with_headers(tags={"email_id": [f" {EMAIL.upper()} "]})).email_id == EMAIL
    assert raw(with_headers(header("G/Not-a-UUID"))).email_id == "Not-a-UUID"


@pytest.mark.parametrize("first", ["", " ", "g/", None, 5, ["g/x"], "g/not a key*", "g/" + "x" * 256, "g/..", "null/"])
def test_the_first_usable_value_counts(first: object) -> None:
    event = raw(with_headers(header(first), header(TRACKING_ID), header("g/later")))
    assert event.email_id == EMAIL


@pytest.mark.parametrize(
    "odd", [None, 5, "text", [], {}, {"name": HEADER}, {"value": TRACKING_ID}, {"name": None, "value": TRACKING_ID}]
)
def test_a_malformed_header_beside_it_is_skipped(odd: object) -> None:
    assert raw(with_headers(odd, header(TRACKING_ID))).email_id == EMAIL


@pytest.mark.parametrize(
    "mail",
    [
        {"headersTruncated": True, "headers": []},
        {"headersTruncated": True},
        {},
        {"headers": None},
        {"headers": [header("g/")]},
        {"headers": [header("by mx.example.com", "Received")]},
    ],
)
def test_the_tag_names_the_email_where_the_header_does_not(mail: dict[str, Any]) -> None:
    assert raw({**EVERY_KIND["open"], "mail": {**mail, "tags": {"email_id": [EMAIL]}}}).email_id == EMAIL


@pytest.mark.parametrize("tag", [EMAIL, [EMAIL, "other"]])
def test_the_tag_may_be_a_text_or_a_longer_list(tag: object) -> None:
    assert raw({**EVERY_KIND["open"], "mail": {"tags": {"email_id": tag}}}).email_id == EMAIL


def test_the_header_counts_before_the_tag() -> None:
    assert raw(with_headers(header(TRACKING_ID), tags={"email_id": ["other"]})).email_id == EMAIL


@pytest.mark.parametrize(
    ("mail", "reason"),
    [
        ({"messageId": "m", "destination": [TO]}, "headers are missing"),
        ({"headers": None, "source": TO}, "headers are missing"),
        ({"headers": [header(f"from {TO}", "Received")], "headersTruncated": True}, "headers are truncated"),
        ({"headersTruncated": True, "destination": [TO]}, "headers are truncated"),
        ({"headers": [header(TO, "To")]}, f"no {HEADER} header"),
        ({"headers": [header(f"{TO}/")]}, f"no {HEADER} header"),
    ],
)
def test_mail_without_an_email_id_is_a_warning_with_the_reason(mail: dict[str, Any], reason: str) -> None:
    found = ignored({**EVERY_KIND["bounce"], "mail": mail})
    assert reason in found.reason
    assert not found.is_expected
    assert "@" not in found.reason


@pytest.mark.parametrize(
    "tags", [None, [], {"email_id": []}, {"email_id": [5]}, {"email_id": ["a b"]}, {"other": ["x"]}]
)
def test_a_malformed_tag_names_no_email(tags: object) -> None:
    assert not ignored({**EVERY_KIND["bounce"], "mail": {"headers": [], "tags": tags}}).is_expected


def test_events_of_one_mail_have_the_ids_of_their_notifications() -> None:
    mail = ses_events.mail(TRACKING_ID, AT)
    events = [
        understood({**EVERY_KIND[kind], "mail": mail}, MessageId=f"sns-{kind}")
        for kind in ("delivery", "open", "bounce")
    ]
    assert [event.event_id for event in events] == ["sns-delivery", "sns-open", "sns-bounce"]
    assert {event.email_id for event in events} == {EMAIL}


@pytest.mark.parametrize(
    ("bounce", "failure"),
    [
        (
            {
                "bounceType": "Transient",
                "bounceSubType": "General",
                "bouncedRecipients": [{"emailAddress": "u@example.com"}],
            },
            Failure(kind="bounce", type="Transient", sub_type="General"),
        ),
        (
            {
                "bounceType": "Permanent",
                "bouncedRecipients": [{"diagnosticCode": "smtp; 550 5.1.1"}, {"diagnosticCode": "other"}],
            },
            Failure(kind="bounce", type="Permanent", diagnostic="smtp; 550 5.1.1"),
        ),
        ({"bounceType": "Undetermined", "bouncedRecipients": []}, Failure(kind="bounce", type="Undetermined")),
        ({"bounceType": None, "bounceSubType": 5, "bouncedRecipients": None}, Failure(kind="bounce")),
        ({"bouncedRecipients": ["u@example.com"]}, Failure(kind="bounce")),
        ({"bouncedRecipients": [{"diagnosticCode": None}]}, Failure(kind="bounce")),
        ({"bounceType": "", "bounceSubType": ""}, Failure(kind="bounce")),
        ({}, Failure(kind="bounce")),
        (None, Failure(kind="bounce")),
    ],
)
def test_a_bounce_has_the_details_of_ses_and_no_others(bounce: dict[str, Any] | None, failure: Failure) -> None:
    assert raw({**EVERY_KIND["bounce"], "bounce": bounce}).failure == failure


@pytest.mark.parametrize(
    ("complaint", "failure"),
    [
        ({"complaintFeedbackType": "abuse", "complaintSubType": None}, Failure(kind="complaint", type="abuse")),
        (
            {"complaintSubType": "OnAccountSuppressionList", "complainedRecipients": [{"emailAddress": TO}]},
            Failure(kind="complaint", sub_type="OnAccountSuppressionList"),
        ),
        ({"complaintFeedbackType": "not-spam"}, Failure(kind="complaint", type="not-spam")),
        ({}, Failure(kind="complaint")),
    ],
)
def test_a_complaint_needs_no_feedback_type(complaint: dict[str, Any], failure: Failure) -> None:
    event = raw({**EVERY_KIND["complaint"], "complaint": complaint})
    assert event.failure == failure
    assert event.failure.diagnostic is UNSET


@pytest.mark.parametrize(
    ("destination", "found"),
    [([TO], (TO,)), (TO, (TO,)), ([TO, "b@example.com"], (TO, "b@example.com")), (None, ()), ([None, "", 5], ())],
)
@pytest.mark.parametrize("kind", ["bounce", "complaint"])
def test_a_failure_has_the_address_that_the_mail_was_sent_to(
    kind: str, destination: object, found: tuple[str, ...]
) -> None:
    event = EVERY_KIND[kind]
    lists: tuple[Any, ...] = ([], None, [{}], [{"emailAddress": "other@example.com"}])
    for listed in lists:
        name = ses_event.RECIPIENTS[kind]
        changed = {kind: {**event[kind], name: listed}, "mail": {**event["mail"], "destination": destination}}
        assert raw({**event, **changed}).destination == found


@pytest.mark.parametrize("kind", ["delivery", "open", "click", "delay"])
def test_an_event_other_than_a_failure_has_no_failure(kind: str) -> None:
    assert raw(EVERY_KIND[kind]).failure is None


@pytest.mark.parametrize(
    "event_type",
    ["Rendering Failure", "RenderingFailure", "Subscription", "Send", "Delay", "constructor", "O p e n e d"],
)
def test_an_event_type_that_is_not_counted_is_expected(event_type: str) -> None:
    found = ignored({**EVERY_KIND["delivery"], "eventType": event_type})
    assert found == Ignored(f"event type {event_type.lower()!r}", is_expected=True)


@pytest.mark.parametrize("event_type", [None, "", 5, ["Bounce"], {"Bounce": 1}])
def test_an_event_without_a_type_is_ignored_with_a_warning(event_type: object) -> None:
    assert not ignored({**EVERY_KIND["bounce"], "eventType": event_type}).is_expected


@pytest.mark.parametrize("mail", [None, 5, "mail", [], {}])
def test_an_event_without_mail_is_ignored(mail: object) -> None:
    assert "headers are missing" in ignored({**EVERY_KIND["delivery"], "mail": mail}).reason


def test_a_long_type_is_cut_short_in_the_reason() -> None:
    assert len(ignored({"eventType": "x" * 100_000}).reason) < 100


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-02T03:04:02.060Z", "2026-01-02T03:04:02.060000+00:00"),
        ("2026-01-02T03:04:02.6Z", "2026-01-02T03:04:02.600000+00:00"),
        ("2026-01-02T03:04:02.006Z", "2026-01-02T03:04:02.006000+00:00"),
        ("2026-01-02T03:04:02Z", "2026-01-02T03:04:02+00:00"),
        ("2026-01-02T03:04:02.1234567Z", "2026-01-02T03:04:02.123456+00:00"),
        ("2026-01-02T03:04:02.123456789Z", "2026-01-02T03:04:02.123456+00:00"),
        ("2026-01-02T03:04:02+00:00", "2026-01-02T03:04:02+00:00"),
        ("2026-01-02T03:04:02.000+0000", "2026-01-02T03:04:02+00:00"),
        ("2026-01-02T03:04:02.000-0000", "2026-01-02T03:04:02+00:00"),
        ("2026-01-02T03:04:02.500+0530", "2026-01-01T21:34:02.500000+00:00"),
        ("2026-01-01T22:04:02-05:00", "2026-01-02T03:04:02+00:00"),
        ("2026-01-02T03:04:02", "2026-01-02T03:04:02+00:00"),
        ("2026-01-02 03:04:02Z", "2026-01-02T03:04:02+00:00"),
        (" 2026-01-02t03:04:02z\n", "2026-01-02T03:04:02+00:00"),
        ("2000-01-01T00:00:00Z", "2000-01-01T00:00:00+00:00"),
        ("2024-02-29T23:59:59.999Z", "2024-02-29T23:59:59.999000+00:00"),
    ],
)
def test_a_timestamp_in_any_of_its_forms_is_the_right_instant(text: str, instant: str) -> None:
    event = raw({**EVERY_KIND["open"], "open": {"timestamp": text}})
    assert event.at == datetime.fromisoformat(instant)
    assert event.at.tzinfo is UTC
    written = records.encode(engagement.apply(examples.record(), event))
    assert f'"last_opened_at":"{instant.replace("+00:00", "Z")}"'.encode() in written


@pytest.mark.parametrize(
    "time",
    [
        None,
        "",
        5,
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-01-02T25:00:00Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00.000Z",
        "0001-01-01T00:00:00+01:00",
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59-08:00",
        "1999-12-31T23:59:59.999Z",
        [],
    ],
)
def test_the_time_is_that_of_ses_else_of_sns_else_of_sqs(time: object) -> None:
    event = {**EVERY_KIND["open"], "open": {"timestamp": time}}
    assert understood(event, Timestamp=SES_TIMES[0]).at == SES_TIMES[1]
    assert understood(event, Timestamp=time or "").at == SENT_TO_QUEUE
    assert raw(event).at == SENT_TO_QUEUE


@pytest.mark.parametrize("detail", [None, 5, "x", []])
def test_an_event_without_details_still_counts(detail: object) -> None:
    assert raw({**EVERY_KIND["click"], "click": detail}).at == SENT_TO_QUEUE


@pytest.mark.parametrize("link", [None, 5, ["https://lfx.dev"], ""])
def test_a_click_without_a_link_still_counts(link: object) -> None:
    assert raw({**EVERY_KIND["click"], "click": {"link": link, "timestamp": SES_TIMES[0]}}).link == ""


def test_neither_address_nor_browser_of_the_reader_is_kept() -> None:
    details = EVERY_KIND["open"]["open"]
    event = repr(replace(raw(EVERY_KIND["open"]), mail={}))  # SES describes the reader outside of `mail` only
    assert details["ipAddress"] not in event
    assert details["userAgent"] not in event


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "body is not a JSON object"),
        ("null", "body is not a JSON object"),
        ("[]", "body is not a JSON object"),
        ("{", "body is not a JSON object"),
        ('{"Message": 5}', "Message is not a JSON object"),
        ('{"Message": ""}', "Message is not a JSON object"),
        ('{"Message": "[]"}', "Message is not a JSON object"),
        ("\ud800", "body is not a JSON object"),
        ('{"eventType": "\ud800"}', "event type '\ufffd'"),
        (r'{"eventType": "\ud800"}', "event type '\ufffd'"),
        ("[" * 100_000, "body is not a JSON object"),
        (json.dumps({"Message": "[" * 100_000}), "Message is not a JSON object"),
        (json.dumps({"Message": '{"Message":' * 20_000 + "1" + "}" * 20_000}), "Message is not a JSON object"),
        ('{"eventType": ' + "9" * 10_000 + "}", "event type ''"),
        ('{"eventType": 1e999}', "event type ''"),
        ("\0" * 1000, "body is not a JSON object"),
    ],
    ids=range(16),
)
def test_a_body_that_is_not_a_json_object_is_ignored_with_a_warning(body: str, reason: str) -> None:
    assert ignored(body) == Ignored(reason)


@pytest.mark.parametrize("seed", range(2))
def test_noise_of_the_largest_message_size_is_ignored(seed: int) -> None:
    noise = random.Random(seed).randbytes(262_144)  # noqa: S311 - not a secret
    assert ignored(noise.decode("latin-1")).reason == "body is not a JSON object"
    assert ignored({"Message": noise.hex()[:262_000]}).reason == "Message is not a JSON object"
    assert isinstance(understood({**EVERY_KIND["click"], "click": {"link": noise.decode("latin-1")}}), EngagementEvent)


def assert_is_ignored_or_applicable(body: str) -> None:
    """Check that the body is ignored for a reason, or an event that can be applied, under a key that NATS accepts."""
    found = read(body)
    if isinstance(found, Ignored):
        assert found.reason
        return
    assert group_index.is_legal_key(found.email_id)
    assert len(found.email_id) <= 255
    assert found.kind in ses_event.KINDS
    assert found.at.utcoffset() == timedelta(0)
    assert (found.failure is not None) == (found.kind in examples.FAILURES)
    assert (found.delay is not None) == (found.kind == "delay")
    after = engagement.apply(examples.record(), found)
    assert records.decode(records.encode(after)) == after


texts = st.text(st.characters(exclude_categories=()), max_size=50)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.sampled_from(["", "Bounce", "g/a"]))
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=15
)


values = st.one_of(
    st.just(TRACKING_ID),
    st.text("ab/.=*> \r\n?%-_é", max_size=20).map(lambda text: f"g/{text}"),
    st.integers(250, 260).map(lambda length: "x" * length),
    texts,
)
times = st.one_of(
    st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
    st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat()),
    st.text("0123456789-:.TZ+W ", max_size=30),
)


def bodies() -> list[dict[str, Any]]:
    """Return every event, without and in an envelope, with its header and its tag."""
    events = list(EVERY_KIND.values())
    envelopes: list[dict[str, Any]] = [json.loads(ses_events.notification(event)) for event in events]
    return events + [{**envelope, "Message": event} for envelope, event in zip(envelopes, events, strict=True)]


def paths(value: object) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value in a JSON value."""
    if isinstance(value, dict | list):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (step,)
            yield from ((step, *rest) for rest in paths(inner))


def replaced(value: Any, path: tuple[str | int, ...], new: object) -> Any:
    """Return a copy with `new` at that path; without that path, return an equal value."""
    if not path:
        return new
    step, *rest = path
    if isinstance(value, dict) and step in value:
        return {**value, step: replaced(value[step], tuple(rest), new)}
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return [replaced(one, tuple(rest), new) if at == step else one for at, one in enumerate(value)]
    return value


def in_every_form(body: dict[str, Any]) -> Iterator[str]:
    yield json.dumps(body)
    if "Message" in body:
        yield json.dumps({**body, "Message": json.dumps(body["Message"])})


WRONG: tuple[object, ...] = (None, True, 5, -1.5, "", "x", "\0", "é" * 300, [], [None], ["x"], [[]], {}, {"name": {}})


@pytest.mark.parametrize("body", bodies(), ids=lambda body: f"{'in-envelope' if 'Message' in body else 'raw'}")
def test_a_wrong_type_at_any_place_is_read_without_an_error(body: dict[str, Any]) -> None:
    for path in paths(body):
        for wrong in WRONG:
            for form in in_every_form(replaced(body, path, wrong)):
                assert_is_ignored_or_applicable(form)


@settings(PROPERTY, max_examples=200)
@given(st.data(), st.sampled_from(bodies()))
def test_anything_at_several_places_is_read_without_an_error(data: st.DataObject, body: dict[str, Any]) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(sorted(paths(body), key=repr)))
        body = replaced(body, path, data.draw(st.one_of(junk, values, times)))
        if not isinstance(body, dict) or not body:
            break
    for form in in_every_form(body):
        assert_is_ignored_or_applicable(form)


@PROPERTY
@given(st.one_of(texts, st.text('{}[]":,\\u0e1 "eventType', max_size=60)))
@example("\ufeff{}")
def test_any_text_is_read_without_an_error(body: str) -> None:
    assert_is_ignored_or_applicable(body)


@PROPERTY
@given(junk)
def test_any_json_is_read_without_an_error(value: object) -> None:
    assert_is_ignored_or_applicable(json.dumps(value))
    assert_is_ignored_or_applicable(json.dumps({"Message": value}))
    assert_is_ignored_or_applicable(json.dumps({"Message": json.dumps(value)}))


@PROPERTY
@given(values)
@example("g/a..b")
@example("g/.a")
@example("g/a.")
@example("g/a*")
@example("g/>")
@example(f"g/{'x' * 255}")
@example(f"g/{'x' * 256}")
@example("g/é")
@example("g/a\0")
def test_every_email_id_is_a_legal_key(value: str) -> None:
    assert_is_ignored_or_applicable(json.dumps(with_headers(header(value), tags={"email_id": [value]})))

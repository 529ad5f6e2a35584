# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SES events that broke other services, from public reports, and the change to the record that each must make."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.stack import ses_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.stack.ses_events import Event

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
TOPIC_ATTACHED = "Successfully validated SNS topic for Amazon SES event publishing."
DIAGNOSTIC = "smtp; 550 5.1.1 user unknown"
HARD_BOUNCE = {"kind": "bounce", "type": "Permanent", "sub_type": "General", "diagnostic": DIAGNOSTIC}


DELAY = {
    "type": "SpamDetected",
    "at": "2026-01-15T12:01:00Z",
    "until": "2026-01-16T00:01:00Z",
    "diagnostic": "smtp; 452 4.2.2 mailbox full",
}


class Sent(NamedTuple):
    """A mail that was already sent."""

    tracking_id: str

    @property
    def email_id(self) -> str:
        """Its id."""
        return self.tracking_id.rpartition("/")[2]

    @property
    def group_id(self) -> str:
        """Its group."""
        return self.tracking_id.rpartition("/")[0]


class Case(NamedTuple):
    """Bodies for the queue, the change to the record, and the reason if they are ignored."""

    id: str
    bodies: Callable[[Sent], Sequence[str]]
    changes: dict[str, Any]
    ignored: tuple[str, str] | None = None
    """Level and reason of the one log line."""


def at(seconds: float) -> datetime:
    """Return a time; only the order of times matters."""
    return NOON + timedelta(seconds=seconds)


def text(seconds: int) -> str:
    """Return the same time in the format of a record."""
    return at(seconds).isoformat().replace("+00:00", "Z")


def delivered(seconds: int) -> dict[str, Any]:
    """Return the changes by a delivery."""
    return {"delivered": True, "delivered_at": text(seconds)}


def failed(seconds: int, failure: dict[str, str]) -> dict[str, Any]:
    """Return the changes by a failure."""
    complained = {"complained_at": text(seconds)} if failure["kind"] == "complaint" else {}
    return {"failed": True, "failed_at": text(seconds), "failure": failure, **complained}


def opened(*opens: tuple[str, int]) -> dict[str, Any]:
    """Return the changes by opens, given by event id and time."""
    return {
        "opened": True,
        "open_count": len(opens),
        "opened_at_list": [{"event_id": event_id, "opened_at": text(seconds)} for event_id, seconds in opens],
        "last_opened_at": text(max(seconds for _, seconds in opens)),
    }


def raw(body: Event) -> str:
    """Return the body of a raw delivery, without the envelope of SNS."""
    return json.dumps(body)


def with_headers(event: Event, *headers: tuple[str, str]) -> Event:
    """Replace the headers that SES returns, and remove the tag that also identifies the mail."""
    event["mail"]["headers"] = [{"name": name, "value": value} for name, value in headers]
    del event["mail"]["tags"]["email_id"]
    return event


def with_mail(event: Event, **fields: Any) -> Event:
    """Replace the `mail` object of an event."""
    return event | {"mail": {"messageId": "0101", "destination": ["private@example.com"], **fields}}


def _without_event_type(sent: Sent) -> list[str]:
    event = ses_events.bounce(sent.tracking_id, at(5))
    event["notificationType"] = event.pop("eventType")
    return [ses_events.notification(event)]


def _topic_attached(_: Sent) -> list[str]:
    body = json.loads(ses_events.notification({}))
    return [json.dumps(body | {"Message": TOPIC_ATTACHED})]


def _delivery_with(*headers: tuple[str, str]) -> Callable[[Sent], list[str]]:
    def bodies(sent: Sent) -> list[str]:
        given = [(name, value.format(sent=sent)) for name, value in headers]
        return [ses_events.notification(with_headers(ses_events.delivery(sent.tracking_id, at(5)), *given))]

    return bodies


def _one_mail_three_events(sent: Sent) -> list[str]:
    events = [
        ses_events.delivery(sent.tracking_id, at(1)),
        ses_events.open_(sent.tracking_id, at(2)),
        ses_events.bounce(sent.tracking_id, at(3)),
    ]
    for event in events:
        event["mail"]["messageId"] = "0101018f-one-and-the-same"
    return [ses_events.notification(event, f"m{number}") for number, event in enumerate(events, 1)]


def _out_of_office(sent: Sent) -> list[str]:
    bounce = ses_events.bounce(sent.tracking_id, at(3), "Transient")
    bounce["bounce"]["bouncedRecipients"] = [{"emailAddress": "u@example.com"}]
    return [ses_events.notification(ses_events.delivery(sent.tracking_id, at(1))), ses_events.notification(bounce)]


def _suppressed_complaint(sent: Sent) -> list[str]:
    complaint = ses_events.complaint(sent.tracking_id, at(3), sub_type="OnAccountSuppressionList")
    for absent in ("complaintFeedbackType", "userAgent", "arrivalDate"):
        del complaint["complaint"][absent]
    return [ses_events.notification(complaint)]


def _of_type(event_type: str | None) -> Callable[[Sent], list[str]]:
    def bodies(sent: Sent) -> list[str]:
        event = ses_events.delivery(sent.tracking_id, at(1)) | {"eventType": event_type}
        return [ses_events.notification(event)]

    return bodies


def _open_by_proxy(sent: Sent) -> list[str]:
    early = ses_events.open_(sent.tracking_id, at(-3600))
    early["open"] |= {"userAgent": "GoogleImageProxy", "ipAddress": "198.51.100.7"}
    return [
        ses_events.notification(early, "m1"),
        ses_events.notification(ses_events.delivery(sent.tracking_id, at(2))),
    ]


def _at_times(*times: str) -> Callable[[Sent], list[str]]:
    def bodies(sent: Sent) -> list[str]:
        events = [ses_events.open_(sent.tracking_id, NOON) for _ in times]
        for event, time in zip(events, times, strict=True):
            event["open"]["timestamp"] = time
        return [ses_events.notification(event, f"m{number}") for number, event in enumerate(events)]

    return bodies


T = "X-LFX-TRACKING-ID"
NO_HEADERS = "headers are missing: switch on the original headers for the event destination"
FIRST_TIMES = ("2026-01-15T12:00:02Z", "2026-01-15T12:00:03.060Z", "2026-01-15T12:00:04.1234567Z")
OTHER_TIMES = ("2026-01-15T12:00:05+00:00", "2026-01-15T12:00:06.000+0000", "2026-01-15T14:00:07.5+02:00")
AS_WRITTEN = ("02Z", "03.060000Z", "04.123456Z", "05Z", "06Z", "07.500000Z")

CASES = [
    Case("notificationType", _without_event_type, failed(5, HARD_BOUNCE)),
    Case("topic-attached", _topic_attached, {}, ("INFO", "SES has attached the topic")),
    Case(
        "raw-delivery", lambda sent: [raw(ses_events.open_(sent.tracking_id, at(5)))], opened(("{message_ids[0]}", 5))
    ),
    Case("header-folded", _delivery_with(("To", "null"), (T, "\r\n {sent.tracking_id}"), ("X", "null")), delivered(5)),
    Case("header-padded", _delivery_with((T, " {sent.tracking_id} ")), delivered(5)),
    Case("header-folded-inside", _delivery_with((T, "{sent.group_id}/\r\n {sent.email_id}")), delivered(5)),
    Case("header-name-in-lower-case", _delivery_with(("x-lfx-tracking-id", "{sent.tracking_id}")), delivered(5)),
    Case("header-twice", _delivery_with((T, ""), (T.lower(), "{sent.tracking_id}"), (T, "g/other")), delivered(5)),
    Case(
        "headers-missing",
        lambda sent: [ses_events.notification(with_mail(ses_events.bounce(sent.tracking_id, at(1))))],
        {},
        ("WARN", NO_HEADERS),
    ),
    Case(
        "headers-truncated",
        lambda sent: [
            ses_events.notification(
                with_mail(
                    ses_events.bounce(sent.tracking_id, at(1)),
                    headers=[{"name": "Received", "value": "from private@example.com"}],
                    headersTruncated=True,
                )
            )
        ],
        {},
        ("WARN", "headers are truncated and there is no email_id tag"),
    ),
    Case(
        "headers-truncated-with-tag",
        lambda sent: [
            ses_events.notification(
                ses_events.delivery(sent.tracking_id, at(5))
                | {"mail": ses_events.mail(sent.tracking_id, at(5), headers_truncated=True)}
            )
        ],
        delivered(5),
    ),
    Case(
        "three-events-of-one-message-id",
        _one_mail_three_events,
        delivered(1) | opened(("m2", 2)) | failed(3, HARD_BOUNCE),
    ),
    Case(
        "complaint-before-delivery",
        lambda sent: [
            ses_events.notification(ses_events.complaint(sent.tracking_id, at(3))),
            ses_events.notification(ses_events.delivery(sent.tracking_id, at(1))),
        ],
        delivered(1) | failed(3, {"kind": "complaint", "type": "abuse"}),
    ),
    Case(
        "bounce-after-delivery",
        lambda sent: [
            ses_events.notification(ses_events.delivery(sent.tracking_id, at(0))),
            ses_events.notification(ses_events.bounce(sent.tracking_id, at(17))),
        ],
        delivered(0) | failed(17, HARD_BOUNCE),
    ),
    Case(
        "out-of-office-bounce",
        _out_of_office,
        delivered(1) | failed(3, {"kind": "bounce", "type": "Transient", "sub_type": "General"}),
    ),
    Case(
        "complaint-by-suppression-list",
        _suppressed_complaint,
        failed(3, {"kind": "complaint", "sub_type": "OnAccountSuppressionList"}),
    ),
    Case(
        "complaint-after-bounce",
        lambda sent: [
            ses_events.notification(ses_events.bounce(sent.tracking_id, at(2))),
            ses_events.notification(ses_events.complaint(sent.tracking_id, at(9))),
        ],
        failed(2, HARD_BOUNCE) | {"complained_at": text(9)},
    ),
    Case(
        "reject",
        lambda sent: [ses_events.notification(ses_events.reject(sent.tracking_id, at(-1)))],
        failed(-1, {"kind": "reject", "diagnostic": "Bad content"}),
    ),
    Case(
        "delay-then-delivery",
        lambda sent: [
            ses_events.notification(ses_events.delivery_delay(sent.tracking_id, at(60), "SpamDetected")),
            ses_events.notification(ses_events.delivery_delay(sent.tracking_id, at(5))),
            ses_events.notification(ses_events.delivery(sent.tracking_id, at(90))),
        ],
        delivered(90) | {"delay": DELAY},
    ),
    Case("type-RenderingFailure", _of_type("Rendering Failure"), {}, ("INFO", "event type 'rendering failure'")),
    Case("type-Subscription", _of_type("Subscription"), {}, ("INFO", "event type 'subscription'")),
    Case("type-null", _of_type(None), {}, ("WARN", "event type ''")),
    Case(
        "mail-null",
        lambda sent: [ses_events.notification(ses_events.delivery(sent.tracking_id, at(1)) | {"mail": None})],
        {},
        ("WARN", NO_HEADERS),
    ),
    Case("open-by-proxy-before-delivery", _open_by_proxy, delivered(2) | opened(("m1", -3600))),
    Case(
        "times-in-each-format",
        _at_times(*FIRST_TIMES, *OTHER_TIMES),
        {
            "opened": True,
            "open_count": 6,
            "opened_at_list": [
                {"event_id": f"m{number}", "opened_at": f"2026-01-15T12:00:{seconds}"}
                for number, seconds in enumerate(AS_WRITTEN)
            ],
            "last_opened_at": "2026-01-15T12:00:07.500000Z",
        },
    ),
]

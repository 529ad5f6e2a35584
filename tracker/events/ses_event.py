# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the body of an SQS message becomes an engagement event, or a reason to ignore it. Nothing in it is trusted.

Sources: the Amazon SES Developer Guide, "Contents of event notifications"; the SNS guide, "Message and JSON formats".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from shared import group_index, redaction, tracking_id
from shared.contract import Failure

Kind = Literal["delivery", "open", "click", "bounce", "complaint"]

KINDS: Final[frozenset[str]] = frozenset({"delivery", "open", "click", "bounce", "complaint"})
TOPIC_ATTACHED: Final = "Successfully validated SNS topic"  # a plain sentence that SES publishes

_decode = msgspec.json.Decoder().decode


class EngagementEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What SES saw happen to one email; `event_id` is the SNS MessageId, `at` in UTC, `recipients` of a failure.

    `traceparent` names the span that sent the email, where the relay makes traces.
    """

    kind: Kind
    email_id: str
    event_id: str
    at: datetime
    link: str = ""
    failure: Failure | None = None
    recipients: tuple[str, ...] = ()
    traceparent: str = ""


class Ignored(msgspec.Struct, frozen=True):
    """The message holds no event of ours and never will; `is_expected` where nobody has to look into it."""

    reason: str
    is_expected: bool = False


class _NoEvent(Exception):
    def __init__(self, reason: str, *, is_expected: bool = False) -> None:
        super().__init__(reason)
        self.ignored = Ignored(reason, is_expected)


def parse(body: str, *, message_id: str, received_at: datetime) -> EngagementEvent | Ignored:
    """Read a body; the id and the time of the SQS message stand in where there is no SNS envelope."""
    try:
        return _parse(body, message_id, received_at)
    except _NoEvent as no_event:
        return no_event.ignored


def _parse(body: str, message_id: str, received_at: datetime) -> EngagementEvent:
    outer = _object(body, "body")
    event = outer
    if "Message" in outer:
        event = _unwrapped(outer)
        message_id = _text(outer.get("MessageId")) or message_id
        received_at = _time(outer.get("Timestamp")) or received_at
    elif _text(outer.get("Type")) == "SubscriptionConfirmation":
        raise _NoEvent("the SNS subscription waits to be confirmed")
    folded = {name.lower(): value for name, value in event.items()}
    kind = (_text(folded.get("eventtype")) or _text(folded.get("notificationtype"))).lower()
    if kind not in KINDS:
        raise _NoEvent(f"event type {redaction.text(kind)[:40]!r}", is_expected=bool(kind))
    detail, mail = _dict(folded.get(kind)), _dict(folded.get("mail"))
    return EngagementEvent(
        kind=kind,  # type: ignore[arg-type] # one of KINDS
        email_id=_email_id(mail),
        event_id=message_id,
        at=_time(detail.get("timestamp")) or received_at,
        link=_text(detail.get("link")),
        failure=_failure(kind, detail),
        recipients=_recipients(kind, detail),
        traceparent=_tag(mail, "traceparent"),
    )


def _unwrapped(envelope: dict[str, Any]) -> dict[str, Any]:
    message = envelope["Message"]
    if isinstance(message, dict):
        return message
    if _text(envelope.get("Type")) == "SubscriptionConfirmation":
        raise _NoEvent("the SNS subscription waits to be confirmed")
    if isinstance(message, str) and message.startswith(TOPIC_ATTACHED):
        raise _NoEvent("SES has attached the topic", is_expected=True)
    return _object(message, "Message")


def _object(text: object, what: str) -> dict[str, Any]:
    try:
        value = _decode(text) if isinstance(text, str) else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _NoEvent(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise _NoEvent(f"{what} is no JSON object")
    return value


def _email_id(mail: dict[str, Any]) -> str:
    headers = mail.get("headers")
    for header in headers if isinstance(headers, list) else ():
        if _text(_dict(header).get("name")).strip().lower() == tracking_id.HEADER.lower():
            email_id = tracking_id.email_id_of(_text(header.get("value")))
            if group_index.is_email_id(email_id):
                return email_id
    email_id = _tag(mail, "email_id")
    if group_index.is_email_id(email_id):
        return email_id
    if mail.get("headersTruncated") is True:
        raise _NoEvent("headers are truncated and there is no email_id tag")
    if not isinstance(headers, list):
        raise _NoEvent("headers are missing: switch on the original headers for the event destination")
    raise _NoEvent(f"no {tracking_id.HEADER} header")


def _tag(mail: dict[str, Any], name: str) -> str:
    tagged = _dict(mail.get("tags")).get(name)
    return _text(tagged[0] if isinstance(tagged, list) and tagged else tagged)


def _failure(kind: str, detail: dict[str, Any]) -> Failure | None:
    if kind == "bounce":
        recipients = detail.get("bouncedRecipients")
        first = _dict(recipients[0]) if isinstance(recipients, list) and recipients else {}
        return Failure(
            kind=kind,
            type=_text(detail.get("bounceType")) or UNSET,
            sub_type=_text(detail.get("bounceSubType")) or UNSET,
            diagnostic=_text(first.get("diagnosticCode")) or UNSET,
        )
    if kind == "complaint":
        return Failure(
            kind=kind,
            type=_text(detail.get("complaintFeedbackType")) or UNSET,
            sub_type=_text(detail.get("complaintSubType")) or UNSET,
        )
    return None


def _recipients(kind: str, detail: dict[str, Any]) -> tuple[str, ...]:
    field = {"bounce": "bouncedRecipients", "complaint": "complainedRecipients"}.get(kind)
    recipients = detail.get(field) if field else None
    listed = recipients if isinstance(recipients, list) else ()
    return tuple(address for one in listed if (address := _text(_dict(one).get("emailAddress"))))


def _time(value: object) -> datetime | None:
    """Read an ISO 8601 timestamp, with or without fraction, `Z`, `+00:00` or `+0000`; without zone it is UTC."""
    try:
        at = datetime.fromisoformat(_text(value))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: reads the body of an SQS message as an engagement event, or returns the reason to ignore it.

No field of a body is trusted to be there or to have the right type.

Sources: the Amazon SES Developer Guide, "Contents of event notifications"; the SNS guide, "Message and JSON formats".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from shared import decoding, group_index, redaction, tracking_id
from shared.contract import Failure

Kind = Literal["delivery", "open", "click", "bounce", "complaint"]

KINDS: Final[frozenset[str]] = frozenset({"delivery", "open", "click", "bounce", "complaint"})
RECIPIENTS: Final = {"bounce": "bouncedRecipients", "complaint": "complainedRecipients"}
TOPIC_ATTACHED: Final = "Successfully validated SNS topic"  # a plain sentence that SES publishes

_decode = decoding.decoder(dict[str, Any])


class EngagementEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of one email; `event_id` is the SNS MessageId, `at` in UTC.

    `recipients` are those of a bounce or complaint. `traceparent` names the span that sent the email, where the relay
    makes traces.
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
    """The message holds no engagement event; `is_expected` where this is normal operation."""

    reason: str
    is_expected: bool = False


class _NoEvent(Exception):
    def __init__(self, reason: str, *, is_expected: bool = False) -> None:
        super().__init__(reason)
        self.ignored = Ignored(reason, is_expected)


def parse(body: str, *, message_id: str, received_at: datetime) -> EngagementEvent | Ignored:
    """Read a body; without an SNS envelope, the event gets the id and the time of the SQS message."""
    try:
        envelope = _object("body", body)
        event = _unwrapped(envelope)
        if event is not envelope:
            message_id = _text(envelope.get("MessageId")) or message_id
            received_at = _time(envelope.get("Timestamp")) or received_at
        return _event(event, message_id, received_at)
    except _NoEvent as no_event:
        return no_event.ignored


def _event(event: dict[str, Any], message_id: str, received_at: datetime) -> EngagementEvent:
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
        failure=_failure(kind, detail) if kind in RECIPIENTS else None,
        recipients=_recipients(detail.get(RECIPIENTS[kind])) if kind in RECIPIENTS else (),
        traceparent=_tag(mail, "traceparent"),
    )


def _unwrapped(envelope: dict[str, Any]) -> dict[str, Any]:
    """Return the event in an SNS envelope; with raw delivery the body itself is the event."""
    message = envelope.get("Message")
    if isinstance(message, dict):
        return message
    if _text(envelope.get("Type")) == "SubscriptionConfirmation":
        raise _NoEvent("the SNS subscription waits to be confirmed")
    if "Message" not in envelope:
        return envelope
    if isinstance(message, str) and message.startswith(TOPIC_ATTACHED):
        raise _NoEvent("SES has attached the topic", is_expected=True)
    return _object("Message", message if isinstance(message, str) else "")


def _object(what: str, text: str) -> dict[str, Any]:
    try:
        return _decode(text.encode(errors="surrogatepass"))  # half a surrogate pair is then malformed
    except decoding.Malformed:
        raise _NoEvent(f"{what} is not a JSON object") from None


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


def _failure(kind: str, detail: dict[str, Any]) -> Failure:
    if kind == "complaint":
        return Failure(
            kind=kind,
            type=_text(detail.get("complaintFeedbackType")) or UNSET,
            sub_type=_text(detail.get("complaintSubType")) or UNSET,
        )
    recipients = detail.get("bouncedRecipients")
    first = _dict(recipients[0]) if isinstance(recipients, list) and recipients else {}
    return Failure(
        kind=kind,
        type=_text(detail.get("bounceType")) or UNSET,
        sub_type=_text(detail.get("bounceSubType")) or UNSET,
        diagnostic=_text(first.get("diagnosticCode")) or UNSET,
    )


def _recipients(listed: object) -> tuple[str, ...]:
    recipients = listed if isinstance(listed, list) else ()
    return tuple(address for one in recipients if (address := _text(_dict(one).get("emailAddress"))))


def _time(value: object) -> datetime | None:
    """Read an ISO 8601 timestamp, with or without fraction, `Z`, `+00:00` or `+0000`; the default zone is UTC."""
    try:
        at = datetime.fromisoformat(_text(value))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: reads the body of an SQS message as an engagement event, or returns the reason to ignore it.

No field of a body is trusted to be there or to have the right type.

Source: the Amazon SES Developer Guide, "Contents of event notifications".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec
from msgspec import UNSET

from shared import group_index, redaction, tracking_id
from shared.contract import Failure
from tracker.events import envelope, json_fields
from tracker.events.envelope import NoEvent
from tracker.events.json_fields import get, mapping, text

if TYPE_CHECKING:
    from datetime import datetime

    from tracker.events.envelope import Contents

Kind = Literal["delivery", "open", "click", "bounce", "complaint"]

KINDS: Final[frozenset[str]] = frozenset({"delivery", "open", "click", "bounce", "complaint"})
RECIPIENTS: Final = {"bounce": "bouncedRecipients", "complaint": "complainedRecipients"}
DETAIL_TYPES: Final = {
    "emaildelivered": "delivery",
    "emailopened": "open",
    "emailclicked": "click",
    "emailbounced": "bounce",
    "emailcomplaintreceived": "complaint",
}
"""For the folded `detail-type` of an event of EventBridge: its kind."""


class EngagementEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of one email; `event_id` is the SNS MessageId, `at` in UTC.

    `recipients` are those that a bounce or complaint names; `destination` is the address that the mail was sent to,
    which forwarding makes another one. `traceparent` names the span that sent the email, where the relay makes traces.
    """

    kind: Kind
    email_id: str
    event_id: str
    at: datetime
    link: str = ""
    failure: Failure | None = None
    recipients: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    traceparent: str = ""


class Ignored(msgspec.Struct, frozen=True):
    """The message holds no engagement event; `is_expected` where this is normal operation."""

    reason: str
    is_expected: bool = False


def parse(body: str, *, message_id: str, received_at: datetime) -> EngagementEvent | Ignored:
    """Read a body; without an envelope, the event gets the id and the time of the SQS message."""
    try:
        return _event(envelope.open_all(body, message_id=message_id, received_at=received_at))
    except NoEvent as no_event:
        return Ignored(no_event.reason, no_event.is_expected)


def _event(contents: Contents) -> EngagementEvent:
    kind = _kind(contents)
    detail, mail = mapping(contents.event.get(kind)), mapping(contents.event.get("mail"))
    return EngagementEvent(
        kind=kind,
        email_id=_email_id(mail),
        event_id=contents.message_id,
        at=json_fields.time(get(detail, "timestamp")) or contents.sent_at,
        link=text(get(detail, "link")) if kind == "click" else "",
        failure=_failure(kind, detail) if kind in RECIPIENTS else None,
        recipients=_recipients(get(detail, RECIPIENTS[kind])) if kind in RECIPIENTS else (),
        destination=_destination(mail) if kind in RECIPIENTS else (),
        traceparent=_tag(mail, "traceparent"),
    )


def _kind(contents: Contents) -> Kind:
    named = next(filter(None, (text(contents.event.get(name)) for name in envelope.TYPES)), contents.detail_type)
    kind = json_fields.folded(named)
    kind = DETAIL_TYPES.get(kind, kind)
    if kind not in KINDS:
        shown = redaction.text(named.strip().lower())[:40]
        raise NoEvent(f"event type {shown!r}", is_expected=bool(kind))
    return cast("Kind", kind)


def _email_id(mail: dict[str, Any]) -> str:
    headers = get(mail, "headers")
    for header in headers if isinstance(headers, list) else ():
        if isinstance(header, dict) and text(get(header, "name")).strip().upper() == tracking_id.HEADER:
            email_id = tracking_id.email_id_of(text(get(header, "value")))
            if group_index.is_email_id(email_id):
                return email_id
    email_id = _tag(mail, "email_id")
    if group_index.is_email_id(email_id):
        return email_id
    if get(mail, "headersTruncated") is True:
        raise NoEvent("headers are truncated and there is no email_id tag")
    if not isinstance(headers, list):
        raise NoEvent("headers are missing: switch on the original headers for the event destination")
    raise NoEvent(f"no {tracking_id.HEADER} header")


def _tag(mail: dict[str, Any], name: str) -> str:
    tagged = mapping(get(mail, "tags")).get(name)
    return text(tagged[0] if isinstance(tagged, list) and tagged else tagged)


def _failure(kind: str, detail: dict[str, Any]) -> Failure:
    if kind == "complaint":
        return Failure(
            kind=kind,
            type=text(get(detail, "complaintFeedbackType")) or UNSET,
            sub_type=text(get(detail, "complaintSubType")) or UNSET,
        )
    recipients = get(detail, "bouncedRecipients")
    first = mapping(recipients[0]) if isinstance(recipients, list) and recipients else {}
    return Failure(
        kind=kind,
        type=text(get(detail, "bounceType")) or UNSET,
        sub_type=text(get(detail, "bounceSubType")) or UNSET,
        diagnostic=text(get(first, "diagnosticCode")) or UNSET,
    )


def _recipients(listed: object) -> tuple[str, ...]:
    recipients = listed if isinstance(listed, list) else ()
    return tuple(address for one in recipients if (address := text(get(mapping(one), "emailAddress"))))


def _destination(mail: dict[str, Any]) -> tuple[str, ...]:
    addresses = get(mail, "destination")
    return tuple(filter(None, map(text, addresses if isinstance(addresses, list) else [addresses])))

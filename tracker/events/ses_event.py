# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: reads the body of an SQS message as an engagement event, or returns the reason to ignore it.

No field of a body is trusted to be there or to have the right type.

Source: the Amazon SES Developer Guide, "Contents of event notifications".
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads the annotation
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from shared import group_index, redaction, tracking_id
from shared.contract import Delay, Failure
from tracker.events import envelope, json_fields, ses_mail
from tracker.events.envelope import NoEvent, SeveralEvents
from tracker.events.json_fields import get, listed, mapping, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tracker.events.envelope import Contents

Kind = Literal["delivery", "open", "click", "bounce", "complaint", "reject", "delay"]

MAX_LISTS: Final = 3  # in each other
KINDS: Final[frozenset[str]] = frozenset(get_args(Kind))
FAILURES: Final = frozenset({"bounce", "complaint", "reject"})
RECIPIENTS: Final = {"bounce": "bouncedRecipients", "complaint": "complainedRecipients"}
TYPES: Final[dict[str, Kind]] = {
    "delivery": "delivery",
    "open": "open",
    "click": "click",
    "bounce": "bounce",
    "complaint": "complaint",
    "reject": "reject",
    "deliverydelay": "delay",
    "emaildelivered": "delivery",
    "emailopened": "open",
    "emailclicked": "click",
    "emailbounced": "bounce",
    "emailcomplaintreceived": "complaint",
    "emailrejected": "reject",
    "emaildeliverydelayed": "delay",
}
"""The kind of an event by its folded type: that of SES, or the `detail-type` of EventBridge."""
DETAILS: Final[dict[Kind, str]] = {"delay": "deliverydelay"}
"""The folded name of the object with the details, where it is not the kind."""


class EngagementEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of one email; `event_id` is the SNS MessageId, `at` in UTC.

    A bounce, a complaint and a reject have a `failure`, a delay has a `delay`. `recipients` are those that a bounce or
    complaint names; `destination` is the address that the mail was sent to, which forwarding makes another one.
    `traceparent` names the span that sent the email, where the relay makes traces. `mail` is SES's description of the
    email, for a record that has to be made from it.
    """

    kind: Kind
    email_id: str
    event_id: str
    at: datetime
    link: str = ""
    failure: Failure | None = None
    delay: Delay | None = None
    recipients: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    traceparent: str = ""
    mail: Mapping[str, Any] = {}

    @property
    def is_permanent_bounce(self) -> bool:
        """Whether the address does not exist; SES pauses accounts with many of these bounces."""
        return self.kind == "bounce" and ((self.failure and self.failure.type) or "").lower() == "permanent"


class Ignored(msgspec.Struct, frozen=True):
    """The message holds no engagement event; `is_expected` where this is normal operation."""

    reason: str
    is_expected: bool = False


class Several(Ignored, frozen=True):
    """A message with several events; for a caller that cannot use them it holds none. Each may hold several again."""

    parts: tuple[EngagementEvent | Ignored, ...] = ()

    def flat(self) -> Iterator[EngagementEvent | Ignored]:
        """Yield the events of all parts."""
        for part in self.parts:
            yield from part.flat() if isinstance(part, Several) else (part,)


def parse(body: str, *, message_id: str, received_at: datetime) -> EngagementEvent | Ignored:
    """Read a body; without an envelope, the event gets the id and the time of the SQS message."""
    return _parse(body, message_id, received_at, MAX_LISTS)


def _parse(body: object, message_id: str, received_at: datetime, lists: int) -> EngagementEvent | Ignored:
    try:
        return _event(envelope.open_all(body, message_id=message_id, received_at=received_at))
    except SeveralEvents as several:
        if not lists:
            return Ignored(several.reason)
        numbered = enumerate(several.elements)
        ids = ((one, f"{several.message_id}-{number}") for number, one in numbered)  # unless it has one of its own
        parts = tuple(_parse(one, own_id, several.received_at, lists - 1) for one, own_id in ids)
        return Several(several.reason, parts=parts)
    except NoEvent as no_event:
        return Ignored(no_event.reason, no_event.is_expected)


def _event(contents: Contents) -> EngagementEvent:
    kind = _kind(contents)
    detail, mail = mapping(contents.event.get(DETAILS.get(kind, kind))), mapping(contents.event.get("mail"))
    at = _time(kind, detail, mail) or contents.sent_at
    return EngagementEvent(
        kind=kind,
        email_id=_email_id(mail),
        event_id=contents.message_id,
        at=at,
        link=text(get(detail, "link")) if kind == "click" else "",
        failure=_failure(kind, detail) if kind in FAILURES else None,
        delay=_delay(detail, at) if kind == "delay" else None,
        recipients=_recipients(get(detail, RECIPIENTS[kind])) if kind in RECIPIENTS else (),
        destination=ses_mail.destination(mail) if kind in RECIPIENTS else (),
        traceparent=ses_mail.tag(mail, "traceparent"),
        mail=mail,
    )


def _kind(contents: Contents) -> Kind:
    named = next(filter(None, (text(contents.event.get(name)) for name in envelope.TYPES)), contents.detail_type)
    folded = json_fields.folded(named)
    kind = TYPES.get(folded)
    if not kind:
        shown = redaction.text(named.strip().lower())[:40]
        raise NoEvent(f"event type {shown!r}", is_expected=bool(folded))
    return kind


def _time(kind: Kind, detail: dict[str, Any], mail: dict[str, Any]) -> datetime | None:
    """Return the time of an event; a reject has none of its own, so it gets that of the mail."""
    at = json_fields.time(get(detail, "timestamp"))
    return json_fields.time(get(mail, "timestamp")) if kind == "reject" and not at else at


def _email_id(mail: dict[str, Any]) -> str:
    for value in ses_mail.headers(mail, tracking_id.HEADER):
        email_id = group_index.email_id_of(tracking_id.email_id_of(value))
        if group_index.is_email_id(email_id):
            return email_id
    email_id = group_index.email_id_of(ses_mail.tag(mail, "email_id"))
    if group_index.is_email_id(email_id):
        return email_id
    if get(mail, "headersTruncated") is True:
        raise NoEvent("headers are truncated and there is no email_id tag")
    if not ses_mail.has_headers(mail):
        raise NoEvent("headers are missing: switch on the original headers for the event destination")
    raise NoEvent(f"no {tracking_id.HEADER} header")


def _failure(kind: Kind, detail: dict[str, Any]) -> Failure:
    if kind == "reject":
        return Failure(kind=kind, diagnostic=text(get(detail, "reason")) or UNSET)
    if kind == "complaint":
        return Failure(
            kind=kind,
            type=text(get(detail, "complaintFeedbackType")) or UNSET,
            sub_type=text(get(detail, "complaintSubType")) or UNSET,
        )
    return Failure(
        kind=kind,
        type=text(get(detail, "bounceType")) or UNSET,
        sub_type=text(get(detail, "bounceSubType")) or UNSET,
        diagnostic=_diagnostic(get(detail, "bouncedRecipients")),
    )


def _delay(detail: dict[str, Any], at: datetime) -> Delay:
    return Delay(
        type=text(get(detail, "delayType")) or UNSET,
        at=at,
        until=json_fields.time(get(detail, "expirationTime")) or UNSET,
        diagnostic=_diagnostic(get(detail, "delayedRecipients")),
    )


def _diagnostic(recipients: object) -> str | UnsetType:
    """Return the text about the first recipient."""
    first = next(iter(listed(recipients)), None)
    return text(get(mapping(first), "diagnosticCode")) or UNSET


def _recipients(recipients: object) -> tuple[str, ...]:
    addresses = (text(one) or text(get(mapping(one), "emailAddress")) for one in listed(recipients))
    return tuple(filter(None, addresses))

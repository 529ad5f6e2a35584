# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: takes an SES event out of the envelopes around it, in any order and up to a few levels.

Envelopes: an SNS notification; an event of EventBridge; a message of SQS or SNS as Lambda and EventBridge Pipes hand it
on; a list of one element; JSON as a JSON string. Without an envelope, the body itself is the event (raw delivery).

Sources: the SNS guide, "Message and JSON formats"; the EventBridge guide, "Event structure"; the Lambda guide, "Using
Lambda with Amazon SQS" and "with Amazon SNS"; the SES guide, "Monitoring with EventBridge".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shared.decoding import Malformed
from tracker.events import json_fields, lenient_json

if TYPE_CHECKING:
    from datetime import datetime

MAX_LEVELS: Final = 16
MAX_TEXTS: Final = 6
TOPIC_ATTACHED: Final = "Successfully validated SNS topic"  # a plain sentence that SES publishes
SUBSCRIPTION: Final = "subscriptionconfirmation"
TYPES: Final = ("eventtype", "notificationtype")
"""The folded names of the field that makes an object an event."""


class NoEvent(Exception):
    """The message holds no engagement event."""

    def __init__(self, reason: str, *, is_expected: bool = False) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason
        self.is_expected = is_expected


class SeveralEvents(NoEvent):
    """The message holds a list of several elements, such as a batch of a Lambda function."""

    def __init__(self, reason: str, elements: list[Any], message_id: str, received_at: datetime) -> None:
        """Keep the elements, with the id and time of the envelope around them."""
        super().__init__(reason)
        self.elements = elements
        self.message_id = message_id
        self.received_at = received_at


class Contents(NamedTuple):
    """An event with the id and time of its innermost envelope; the names of its fields are folded."""

    event: dict[str, Any]
    message_id: str
    sent_at: datetime
    detail_type: str = ""


class _Envelope(NamedTuple):
    """The folded names of the fields that hold the contents, the id and the time; `label` is for messages."""

    contents: str
    label: str
    message_id: str = ""
    time: str = ""


_ENVELOPES: Final = (
    _Envelope("message", "Message", "messageid", "timestamp"),
    _Envelope("detail", "detail", "id", "time"),
    _Envelope("body", "body", "messageid"),
    _Envelope("sns", "Sns"),
    _Envelope("records", "Records"),
    _Envelope("messages", "Messages"),
)


def open_all(body: object, *, message_id: str, received_at: datetime) -> Contents:
    """Return the event of a body; without an envelope, it gets the id and time of the SQS message.

    Raises:
        NoEvent: there is no JSON object inside, or what SNS sends instead of events.
        SeveralEvents: there are several; each element may be given as a body.
    """
    value: Any = body
    label, detail_type, texts = "body", "", 0
    for _ in range(MAX_LEVELS):
        if isinstance(value, list) and len(value) == 1:
            [value] = value
        elif isinstance(value, str) and texts < MAX_TEXTS:
            value, texts = _decoded(value, label), texts + 1
        elif isinstance(value, dict):
            fields = {json_fields.folded(name): field for name, field in value.items()}
            envelope = _envelope_in(fields)
            if envelope is None:
                return Contents(fields, message_id, received_at, detail_type)
            value, label = fields[envelope.contents], envelope.label
            message_id = json_fields.identifier(fields.get(envelope.message_id)) or message_id
            received_at = _sent_at(fields, envelope) or received_at
            detail_type = json_fields.text(fields.get("detailtype"))
        elif isinstance(value, list) and value:
            reason = f"{label} holds {len(value)} elements instead of one"
            raise SeveralEvents(reason, value, message_id, received_at)
        else:
            raise NoEvent(_unusable(value, label))
    raise NoEvent("the event is in too many envelopes")


def _decoded(text: str, label: str) -> Any:
    if text.lstrip(lenient_json.AROUND).startswith(TOPIC_ATTACHED):
        raise NoEvent("SES has attached the topic", is_expected=True)
    try:
        return lenient_json.decode(text)
    except Malformed:
        raise NoEvent(f"{label} is not a JSON object") from None


def _unusable(value: object, label: str) -> str:
    if isinstance(value, str):
        return "the event is in too many envelopes"
    return f"{label} is not a JSON object"


def _envelope_in(fields: dict[str, Any]) -> _Envelope | None:
    """Return the kind of an envelope, or None for an event.

    Raises:
        NoEvent: it is the confirmation of a subscription.
    """
    if isinstance(fields.get("mail"), dict) or any(json_fields.text(fields.get(name)) for name in TYPES):
        return None
    type_ = json_fields.folded(json_fields.text(fields.get("type")))
    if type_ == SUBSCRIPTION and not isinstance(fields.get("message"), dict):
        raise NoEvent("the SNS subscription waits to be confirmed")
    present = [one for one in _ENVELOPES if one.contents in fields]
    return next((one for one in present if fields[one.contents]), present[0] if present else None)


def _sent_at(fields: dict[str, Any], envelope: _Envelope) -> datetime | None:
    if envelope.contents == "body":
        attributes = json_fields.mapping(fields.get("attributes"))
        return json_fields.unix_time(json_fields.get(attributes, "SentTimestamp"))
    return json_fields.time(fields.get(envelope.time))

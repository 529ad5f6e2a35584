# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: what a file of saved messages holds, in any of the forms in which people save them.

Each document is a message of SQS (`MessageId`, `Body`, maybe `Attributes`), the body of one as object or as string, or
an answer of `aws sqs receive-message`. A body is an SNS notification or an event of SES, as for live messages.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tracker.commands import json_documents
from tracker.commands.json_documents import Broken
from tracker.events import ses_event
from tracker.events.ses_event import EngagementEvent, Ignored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_BATCH_BYTES: Final = 4 << 20
NO_TIME: Final = datetime.min.replace(tzinfo=UTC)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A saved message; without a `MessageId` it has the digest of its body, which is the same in the next replay."""

    line: int
    message_id: str
    body: str
    sent_at: datetime | None = None


def read(pieces: Iterable[str]) -> Iterator[Message | Broken]:
    """Return what a file holds, in order."""
    for document in json_documents.split(pieces, wrapper="Messages"):
        if isinstance(document, Broken):
            yield document
        else:
            yield from _found(document.line, document.value)


def batches(messages: Iterable[Message | Broken], size: int) -> Iterator[list[Message | Broken]]:
    """Return the messages in lists of up to `size`, of which none holds much more than MAX_BATCH_BYTES."""
    batch: list[Message | Broken] = []
    held = 0
    for message in messages:
        batch.append(message)
        held += 0 if isinstance(message, Broken) else len(message.body)
        if len(batch) >= size or held >= MAX_BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def event_of(message: Message) -> EngagementEvent | Ignored:
    """Read the body as a live one is read; only the time when a live one was sent may be missing."""
    event = ses_event.parse(message.body, message_id=message.message_id, received_at=message.sent_at or NO_TIME)
    if isinstance(event, EngagementEvent) and event.at == NO_TIME:
        return Ignored("neither the event nor its message has a time")
    return event


def saved(message: Message) -> bytes:
    """Return a message as a line that `read` reads."""
    fields: dict[str, Any] = {"MessageId": message.message_id, "Body": message.body}
    if message.sent_at:
        fields["Attributes"] = {"SentTimestamp": str(round(message.sent_at.timestamp() * 1000))}
    return _encode(fields) + b"\n"


def _found(line: int, value: Any) -> Iterator[Message | Broken]:
    match value:
        case str():
            yield _message(line, value)
        case {"Messages": list() as listed}:
            for one in listed:
                yield from _found(line, one)
        case {"Messages": None}:
            return
        case {"Body": (str() | dict()) as body}:
            attributes = value.get("Attributes")
            sent = attributes.get("SentTimestamp") if isinstance(attributes, dict) else None
            yield _message(line, body, value.get("MessageId"), sent)
        case dict():
            yield _message(line, value)
        case _:
            yield Broken(line, "neither an object nor a string")


def _message(line: int, body: str | dict[str, Any], message_id: object = None, sent: object = None) -> Message | Broken:
    try:
        text = body if isinstance(body, str) else _encode(body).decode()
        named = message_id if isinstance(message_id, str) and message_id else _digest(body)
        named.encode()
    except (ValueError, OverflowError) as error:  # half a surrogate pair, a number beyond 64 bits
        return Broken(line, f"no message: {error}")
    return Message(line=line, message_id=named, body=text, sent_at=_time(sent))


def _digest(body: str | dict[str, Any]) -> str:
    """Return the same for the same body, however it is spaced and whatever the order of its fields."""
    try:
        content = _encode(_decode(body) if isinstance(body, str) else body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        content = str(body).encode(errors="replace")
    return hashlib.sha256(content).hexdigest()


def _time(sent: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(str(sent)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the documents of a file become saved messages, and these become events.

A document is an SQS message (`MessageId`, `Body`, optionally `Attributes`), the body of one as object or as string, or
an answer of `aws sqs receive-message`. A body is an SNS notification or an SES event, as for live messages.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shared import decoding
from tracker.commands import json_documents
from tracker.commands.json_documents import Broken
from tracker.events import ses_event
from tracker.events.ses_event import EngagementEvent, Ignored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_BATCH_CHARACTERS: Final = 4 << 20
NO_TIME: Final = datetime.min.replace(tzinfo=UTC)

_decode = decoding.decoder(object)
_encode = msgspec.json.Encoder(order="sorted").encode


class SavedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a file; the id of a body that was saved alone is its digest, which is the same in each replay."""

    line: int
    message_id: str
    body: str
    sent_at: datetime | None = None


def read(pieces: Iterable[str]) -> Iterator[SavedMessage | Broken]:
    """Yield the messages of a text, in order."""
    for document in json_documents.read(pieces, wrapper="Messages"):
        if isinstance(document, Broken):
            yield document
        else:
            yield from _messages(document.line, document.value)


def batches(messages: Iterable[SavedMessage | Broken], size: int) -> Iterator[list[SavedMessage | Broken]]:
    """Yield the messages in lists of up to `size`, each with little more than MAX_BATCH_CHARACTERS."""
    batch: list[SavedMessage | Broken] = []
    held = 0
    for message in messages:
        batch.append(message)
        held += 0 if isinstance(message, Broken) else len(message.body)
        if len(batch) >= size or held >= MAX_BATCH_CHARACTERS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def event_of(message: SavedMessage) -> EngagementEvent | Ignored:
    """Read the body as that of a live message; a saved one may lack the time at which it was sent."""
    event = ses_event.parse(message.body, message_id=message.message_id, received_at=message.sent_at or NO_TIME)
    if isinstance(event, EngagementEvent) and event.at == NO_TIME:
        return Ignored("neither the event nor its message has a time")
    return event


def encode(message: SavedMessage) -> bytes:
    """Return a message as a line that `read` reads."""
    fields: dict[str, Any] = {"MessageId": message.message_id, "Body": message.body}
    if message.sent_at:
        fields["Attributes"] = {"SentTimestamp": str(round(message.sent_at.timestamp() * 1000))}
    return _encode(fields) + b"\n"


def _messages(line: int, value: Any) -> Iterator[SavedMessage | Broken]:
    match value:
        case str():
            yield _message(line, value)
        case {"Messages": list() as listed}:
            for element in listed:
                yield from _messages(line, element)
        case {"Messages": None}:
            return
        case {"Body": (str() | dict()) as body}:
            attributes = value.get("Attributes")
            sent = attributes.get("SentTimestamp") if isinstance(attributes, dict) else None
            yield _message(line, body, value.get("MessageId"), sent)
        case dict():
            yield _message(line, value)
        case _:
            yield Broken(line, "neither a JSON object nor a string")


def _message(
    line: int, body: str | dict[str, Any], message_id: object = None, sent: object = None
) -> SavedMessage | Broken:
    try:
        text = body if isinstance(body, str) else _encode(body).decode()
        known_id = message_id if isinstance(message_id, str) and message_id else _digest(text)
        known_id.encode()
    except (ValueError, OverflowError, RecursionError) as error:  # half a surrogate pair, a number beyond 64 bits
        return Broken(line, f"not a message: {error}")
    return SavedMessage(line=line, message_id=known_id, body=text, sent_at=_time(sent))


def _digest(body: str) -> str:
    """Return a digest that is independent of the spacing and the order of fields."""
    try:
        content = _encode(_decode(body.encode()))
    except (decoding.Malformed, UnicodeEncodeError):
        content = body.encode(errors="replace")
    return hashlib.sha256(content).hexdigest()


def _time(sent: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(str(sent)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None

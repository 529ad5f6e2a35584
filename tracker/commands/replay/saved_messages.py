# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the documents of a file become saved messages, and these become events.

A document is an SQS message (`MessageId`, `Body`, optionally `Attributes`), the body of one as object or as string, an
answer of `aws sqs receive-message`, or the event with which AWS Lambda invokes a function, whose names have other
capitals. A body is an SNS notification, an EventBridge event or an SES event, as for live messages.

Sources: the AWS Lambda Developer Guide, chapters on Amazon SQS, Amazon SNS, Kinesis and "Retaining records".
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shared import decoding
from tracker.commands import input_file, json_documents
from tracker.commands.json_documents import Broken, Wrapper
from tracker.events import ses_event
from tracker.events.ses_event import EngagementEvent, Ignored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_BATCH_CHARACTERS: Final = 4 << 20
MAX_DEPTH: Final = 8  # of lists and envelopes around a message
NO_TIME: Final = datetime.min.replace(tzinfo=UTC)
LISTS: Final = ("messages", "records", "events", "logevents")  # of SQS, of Lambda and Firehose, of CloudWatch Logs
ENVELOPES: Final = ("sns", "kinesis", "awslogs", "requestpayload", "event")
"""Objects around messages: in a record, in what Lambda saves of a failed invocation, in a log line of a function."""
SNS_NAMES: Final = {"type": "Type", "messageid": "MessageId", "message": "Message", "timestamp": "Timestamp"}

_HALF = re.compile("[\ud800-\udfff]")
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
    for document in json_documents.read(pieces, wrappers=LISTS):
        match document:
            case Broken():
                yield document
            case Wrapper():
                continue
            case _:
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


def _messages(line: int, value: Any, depth: int = 0) -> Iterator[SavedMessage | Broken]:
    if depth > MAX_DEPTH:
        yield Broken(line, "a message in too many envelopes")
        return
    match value:
        case str():
            yield from _of_text(line, value, depth)
        case list():
            for element in value:
                yield from _messages(line, element, depth + 1)
        case dict():
            yield from _of_object(line, value, depth)
        case _:
            yield Broken(line, "neither a JSON object nor a string")


def _of_text(line: int, text: str, depth: int) -> Iterator[SavedMessage | Broken]:
    """Yield the messages of a document that was saved as a string."""
    try:
        value = _decode(text.encode())
    except (decoding.Malformed, UnicodeEncodeError):
        yield _message(line, text)
        return
    yield from _messages(line, value, depth + 1)


def _of_object(line: int, value: dict[str, Any], depth: int) -> Iterator[SavedMessage | Broken]:
    fields = {_folded(name): field for name, field in value.items()}
    if fields.get("messages", "") is None:  # the answer of SQS for an empty queue
        return
    inner = [fields[name] for name in LISTS if isinstance(fields.get(name), list)]
    inner += [fields[name] for name in ENVELOPES if isinstance(fields.get(name), dict | list)]
    if inner:
        yield from _messages(line, inner[0], depth + 1)
    elif isinstance(body := fields.get("body"), str | dict):
        attributes = fields.get("attributes")
        sent = {_folded(name): field for name, field in attributes.items()} if isinstance(attributes, dict) else {}
        yield _message(line, body, fields.get("messageid"), sent.get("senttimestamp"))
    elif isinstance(data := fields.get("data"), str):
        yield from _of_data(line, data, depth)
    elif "message" in fields and "Message" not in value and not fields.keys() & {"messageid", "topicarn"}:
        yield from _messages(line, fields["message"], depth + 1)  # a line of a log
    else:
        yield _message(line, _with_names_of_sns(value), sent=fields.get("timestamp"))


def _of_data(line: int, data: str, depth: int) -> Iterator[SavedMessage | Broken]:
    """Yield the messages of a record of Kinesis or Firehose: Base64, sometimes with gzip below it."""
    try:
        content = base64.b64decode(data, validate=True)
        content = gzip.decompress(content) if content[:2] == input_file.GZIP else content
        texts = list(json_documents.read([content.decode()], wrappers=()))
    except (ValueError, EOFError, OSError, zlib.error) as error:
        yield Broken(line, f"the data of a record cannot be decoded: {error}")
        return
    for one in texts:
        if isinstance(one, Broken):
            yield Broken(line, f"the data of a record: {one.why}")
        else:
            yield from _messages(line, one.value, depth + 1)


def _folded(name: str) -> str:
    """Return a name without the differences between AWS tools and libraries: MessageId, messageId, message_id."""
    return name.replace("_", "").lower()


def _with_names_of_sns(value: dict[str, Any]) -> dict[str, Any]:
    """Return an SNS notification with its own names, and any other object unchanged."""
    if "Message" in value or "message" not in map(_folded, value):
        return value
    return {SNS_NAMES.get(_folded(name), name): field for name, field in value.items()}


def _message(
    line: int, body: str | dict[str, Any], message_id: object = None, sent: object = None
) -> SavedMessage | Broken:
    try:
        text = body if isinstance(body, str) else _json(body)
        known_id = message_id if isinstance(message_id, str) and message_id else _digest(text)
        known_id.encode()
    except (ValueError, OverflowError, RecursionError) as error:  # an id with half a surrogate pair, a huge number
        return Broken(line, f"not a message: {error}")
    return SavedMessage(line=line, message_id=known_id, body=_HALF.sub("\ufffd", text), sent_at=_time(sent))


def _json(body: dict[str, Any]) -> str:
    """Encode an object; a half of a surrogate pair, which a text that was cut inside an emoji has, becomes U+FFFD."""
    try:
        return _encode(body).decode()
    except UnicodeEncodeError:
        return _HALF.sub("\ufffd", json.dumps(body, sort_keys=True, ensure_ascii=False))


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

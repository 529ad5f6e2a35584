# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The SQS actions: AWS JSON payload in, payload out, on the queues. No sockets, no HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.stack import sqs_errors
from tests.stack.sqs_errors import SqsError
from tests.stack.sqs_queue import NotInFlight, ReceiptHandleIsInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.stack.sqs_queue import Message, Queue

    Entry = Callable[["Queue", dict[str, Any]], dict[str, Any]]

LONGEST_VISIBILITY = 43_200
LONGEST_WAIT = 20
MOST_MESSAGES = 10


def find_queue(queues: Mapping[str, Queue], payload: dict[str, Any], path: str) -> Queue:
    """Return a queue by the last part of its URL, from the payload or the path of the request."""
    name = payload.get("QueueName") or str(payload.get("QueueUrl") or path).rpartition("/")[2]
    queue = queues.get(name)
    if queue is None:
        raise SqsError(sqs_errors.QUEUE_DOES_NOT_EXIST, "The specified queue does not exist.")
    return queue


def receive(queue: Queue, payload: dict[str, Any]) -> list[dict[str, Any]]:
    """Receive the messages that are visible now."""
    most = _number(payload, "MaxNumberOfMessages", 1, 1, MOST_MESSAGES)
    visibility = _number(payload, "VisibilityTimeout", queue.visibility_timeout, 0, LONGEST_VISIBILITY)
    names = {*payload.get("MessageSystemAttributeNames", ()), *payload.get("AttributeNames", ())}
    return [_received(message, names) for message in queue.receive(int(most), visibility)]


def wait_seconds(payload: dict[str, Any]) -> float:
    """Return how long a receive may wait for a message."""
    return _number(payload, "WaitTimeSeconds", 0, 0, LONGEST_WAIT)


def send(queue: Queue, payload: dict[str, Any]) -> dict[str, Any]:
    """SendMessage, and one entry of its batch."""
    body = payload.get("MessageBody")
    if not body:
        raise SqsError(sqs_errors.MISSING_PARAMETER, "The request must contain the parameter MessageBody.")
    message = queue.send(body)
    return {"MessageId": message.message_id, "MD5OfMessageBody": message.md5}


def delete(queue: Queue, payload: dict[str, Any]) -> dict[str, Any]:
    """DeleteMessage, and one entry of its batch."""
    handle = payload.get("ReceiptHandle", "")
    try:
        queue.delete(handle)
    except ReceiptHandleIsInvalid as error:
        raise _bad_handle(handle) from error
    return {}


def change_visibility(queue: Queue, payload: dict[str, Any]) -> dict[str, Any]:
    """ChangeMessageVisibility, and one entry of its batch."""
    handle = payload.get("ReceiptHandle", "")
    if "VisibilityTimeout" not in payload:
        raise SqsError(sqs_errors.MISSING_PARAMETER, "The request must contain the parameter VisibilityTimeout.")
    timeout = _number(payload, "VisibilityTimeout", 0, 0, LONGEST_VISIBILITY)
    try:
        queue.change_visibility(handle, timeout)
    except ReceiptHandleIsInvalid as error:
        raise _bad_handle(handle) from error
    except NotInFlight as error:
        raise _not_in_flight(handle) from error
    return {}


def attributes(queue: Queue, payload: dict[str, Any]) -> dict[str, Any]:
    """GetQueueAttributes."""
    values = {
        "QueueArn": queue.arn,
        "ApproximateNumberOfMessages": str(queue.visible),
        "ApproximateNumberOfMessagesNotVisible": str(queue.in_flight),
        "VisibilityTimeout": f"{queue.visibility_timeout:g}",
        **queue.attributes,
    }
    if queue.redrive_policy:
        values["RedrivePolicy"] = queue.redrive_policy
    asked = payload.get("AttributeNames", ())
    return {"Attributes": {name: value for name, value in values.items() if "All" in asked or name in asked}}


def purge(queue: Queue, _payload: dict[str, Any]) -> dict[str, Any]:
    """PurgeQueue."""
    queue.purge()
    return {}


ACTIONS: dict[str, Entry] = {
    "SendMessage": send,
    "DeleteMessage": delete,
    "ChangeMessageVisibility": change_visibility,
    "GetQueueAttributes": attributes,
    "PurgeQueue": purge,
}
BATCHES: dict[str, Entry] = {
    "SendMessageBatch": send,
    "DeleteMessageBatch": delete,
    "ChangeMessageVisibilityBatch": change_visibility,
}


def batch(
    queue: Queue, payload: dict[str, Any], action: Entry, failures: Mapping[int, dict[str, Any]]
) -> dict[str, Any]:
    """Execute every entry of a batch, except the planned failures."""
    entries = payload.get("Entries") or []
    _check_batch(entries)
    answer: dict[str, Any] = {"Successful": [], "Failed": []}
    for number, entry in enumerate(entries):
        if number in failures:
            answer["Failed"].append({"Id": entry["Id"], **failures[number]})
            continue
        try:
            answer["Successful"].append({"Id": entry["Id"], **action(queue, entry)})
        except SqsError as error:
            failure = {"SenderFault": True, "Code": error.code, "Message": error.message}
            answer["Failed"].append({"Id": entry["Id"], **failure})
    return {name: entries for name, entries in answer.items() if entries}


def _check_batch(entries: list[dict[str, Any]]) -> None:
    if not entries:
        raise SqsError(sqs_errors.EMPTY_BATCH_REQUEST)
    if len(entries) > MOST_MESSAGES:
        raise SqsError(sqs_errors.TOO_MANY_ENTRIES_IN_BATCH_REQUEST)
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise SqsError(sqs_errors.BATCH_ENTRY_IDS_NOT_DISTINCT)


def _received(message: Message, names: set[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "MessageId": message.message_id,
        "ReceiptHandle": message.receipt_handle,
        "MD5OfBody": message.md5,
        "Body": message.body,
    }
    if names:
        known = {
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateReceiveCount": str(message.receive_count),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
        }
        answer["Attributes"] = {name: value for name, value in known.items() if "All" in names or name in names}
    return answer


def _number(payload: dict[str, Any], name: str, default: float, lowest: int, highest: int) -> float:
    value = payload.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise sqs_errors.invalid_value(name, value, f"Must be between {lowest} and {highest}, if provided.")
    return value


def _bad_handle(handle: str) -> SqsError:
    message = f'The input receipt handle "{handle}" is not a valid receipt handle.'
    return SqsError(sqs_errors.RECEIPT_HANDLE_IS_INVALID, message)


def _not_in_flight(handle: str) -> SqsError:
    return sqs_errors.invalid_value("ReceiptHandle", handle, str(NotInFlight.__doc__))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One SQS queue, over boto3 in daemon threads. A long poll in a thread cannot be cancelled, only abandoned."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared import error_texts, redaction
from shared.service import threads
from tracker.errors import QueueUnavailable
from tracker.events import json_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger(__name__)

LONG_POLL_SECONDS: Final = 20
CALL_SECONDS: Final = 60.0  # boto3 limits only each read and each connection, and a credentials process not at all
SHORTEST_EMPTY_POLL_SECONDS: Final = 1.0
FURTHER_CONNECTIONS: Final = 12  # that are kept, for messages that are held
BATCH: Final = 10  # the limit of SQS for one call
DELETE_TRIES: Final = 3
TOLERATED_SKEW_SECONDS: Final = 5  # the time in an answer has no fractions
REFUSED_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""The codes after which the credentials are read again: they have expired, or were replaced."""
GONE: Final = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})
DEFAULT_REGION: Final = "us-east-1"

MAX_SHOWN_CHARACTERS: Final = 1000  # SQS quotes the whole request if its signature does not match
SHOWN_OF_FOREIGN_ANSWER: Final = 200

_HEADER = re.compile(r"(header (?:name|value|part)\b).*", re.IGNORECASE | re.DOTALL)
_REGION = re.compile(
    r"(?:^|\.)sqs(?:-fips)?\.([a-z]+(?:-[a-z]+)+-[0-9]+)\.|^([a-z0-9-]+)\.queue\.amazonaws\.com(?:\.cn)?$"
)
_REGIONAL_ENDPOINT = re.compile(
    r"(?:sqs(?:-fips)?\.[a-z0-9-]+|(?:[a-z0-9-]+\.)?queue)\.(?:amazonaws\.com(?:\.cn)?|api\.aws)"
)


class ForeignAnswer(Exception):
    """A successful answer that is not one of SQS."""


class Message(msgspec.Struct, frozen=True):
    """One received message; `sent_at` is SQS's own SentTimestamp, `sent_on_clock` the same on the monotonic clock."""

    message_id: str
    receipt_handle: str
    body: str
    sent_at: datetime
    sent_on_clock: float


class Queue:
    """Receives, deletes, extends; the client is made at the first call and anew when its credentials are refused."""

    def __init__(self, url: str, environ: Mapping[str, str], *, visibility_seconds: int, long_polls: int = 2) -> None:
        """Name the queue; `environ` is read only for an endpoint and a region that are set for boto3."""
        self._visibility_seconds = visibility_seconds
        self._long_polls = long_polls
        self._url = url
        self._endpoint = endpoint_of(url, environ)
        self.region = region_of(url) or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
        self._client: Any = None
        self.undeleted = 0
        self._making = threading.Lock()
        self._threads = threads.Threads()

    async def receive(self) -> list[Message]:
        """Long-poll once and return up to ten messages, invisible to others for a while.

        Raises:
            QueueUnavailable: the call failed, or the answer does not have the form of SQS's.
        """
        earliest = time.monotonic() + min(SHORTEST_EMPTY_POLL_SECONDS, LONG_POLL_SECONDS)
        answer = await self.ask(
            "receive_message",
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=LONG_POLL_SECONDS,
            VisibilityTimeout=self._visibility_seconds,
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        try:
            now = _now(answer)
            messages = [_message(one, now) for one in answer.get("Messages") or ()]
        except Exception as error:
            raise QueueUnavailable(f"receive_message: {reason(error)}") from error
        if not messages:  # a server that answers sooner is not SQS, and would get hundreds of polls a second
            await asyncio.sleep(earliest - time.monotonic())
        return messages

    async def delete(self, messages: Sequence[Message]) -> None:
        """Delete messages; one that cannot be deleted is received again, and its event is then a duplicate."""
        for some in _batches(messages):
            await self._delete_batch(some)

    async def _delete_batch(self, messages: Sequence[Message]) -> None:
        for _ in range(DELETE_TRIES):
            by_id = {str(at): one for at, one in enumerate(messages)}
            entries = [{"Id": id_, "ReceiptHandle": one.receipt_handle} for id_, one in by_id.items()]
            try:
                answer = await self.ask("delete_message_batch", Entries=entries)
            except QueueUnavailable as error:
                log.warning("queue.delete_failed", extra={"messages": len(messages), "error": str(error)})
                continue
            failed = [one.get("Id") for one in _failures(answer, "delete") if not _is_final(one)]
            messages = [by_id[id_] for id_ in failed if id_ in by_id]
            if not messages:
                return
        self.undeleted += len(messages)
        log.warning("queue.undeleted", extra={"message_ids": [one.message_id for one in messages]})

    async def change_visibility(self, messages: Sequence[Message], seconds: int) -> None:
        """Keep messages invisible for `seconds` from now; with 0 the next receiver gets them at once.

        The first failure ends it: without an answer from SQS, each further call would wait for its timeout.
        """
        for number, some in enumerate(_batches(messages)):
            entries = [
                {"Id": str(at), "ReceiptHandle": one.receipt_handle, "VisibilityTimeout": seconds}
                for at, one in enumerate(some)
            ]
            try:
                _failures(await self.ask("change_message_visibility_batch", Entries=entries), "visibility")
            except QueueUnavailable as error:
                left = len(messages) - number * BATCH
                log.warning("queue.visibility_failed", extra={"messages": left, "error": str(error)})
                return

    async def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """Make a call in a thread; return the answer.

        Raises:
            QueueUnavailable: the call failed; its cause is boto3's own error.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._threads.run(lambda: self._call(operation, arguments))
        except TimeoutError as error:
            raise QueueUnavailable(f"{operation}: no answer within {CALL_SECONDS:g} s") from error
        except threads.ThreadRefused as error:
            raise QueueUnavailable(f"{operation}: {error}") from error

    def _call(self, operation: str, arguments: dict[str, object]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._connected(), operation)(QueueUrl=self._url, **arguments)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in REFUSED_CREDENTIALS:
                self._client = None
            raise QueueUnavailable(f"{operation}: {reason(error)}") from error
        except Exception as error:  # botocore's parser may raise any error
            raise QueueUnavailable(f"{operation}: {reason(error)}") from error
        return answer

    def _connected(self) -> Any:
        with self._making:
            if self._client is None:
                client = boto3.session.Session().client(
                    "sqs", region_name=self.region, endpoint_url=self._endpoint, config=_config(self._long_polls)
                )
                client.meta.events.register("before-parse.sqs", _check_encoding)
                client.meta.events.register("after-call.sqs", _check_answer)
                self._client = client
            return self._client


def reason(error: Exception) -> str:
    """Return why a call failed, without credentials: libraries quote headers and URLs that contain them."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        code, message = details.get("Code", "Unknown"), details.get("Message", "")
        return _redacted(f"{code}: {message}" if message else str(code))
    if isinstance(error, BotoCoreError | ForeignAnswer):
        return _redacted(str(error))
    if isinstance(error, OSError):
        return _redacted(error_texts.in_words(error))
    return _redacted(f"{type(error).__name__}: {error}")


def _redacted(text: str) -> str:
    return redaction.secrets(_HEADER.sub(r"\1 ***", text))[:MAX_SHOWN_CHARACTERS]


def region_of(url: str) -> str | None:
    """Return the region in a queue URL of the present or the legacy form, or None."""
    host = urlsplit(url).hostname or ""
    if host == "queue.amazonaws.com":
        return DEFAULT_REGION
    match = _REGION.search(host)
    return match and (match[1] or match[2])


def endpoint_of(url: str, environ: Mapping[str, str]) -> str | None:
    """Return the endpoint of a queue URL outside AWS's regions; None if boto3 finds the endpoint itself."""
    parts = urlsplit(url)
    is_ignored = environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").strip().lower() == "true"  # as boto3 reads it
    if not is_ignored and (environ.get("AWS_ENDPOINT_URL_SQS") or environ.get("AWS_ENDPOINT_URL")):
        return None
    if _REGIONAL_ENDPOINT.fullmatch(parts.hostname or ""):
        return None
    return f"{parts.scheme}://{parts.netloc}"


def _config(long_polls: int) -> Config:
    return Config(
        connect_timeout=5,
        read_timeout=LONG_POLL_SECONDS + 10,  # less would end every quiet poll in an error (boto/botocore#3770)
        retries={"total_max_attempts": 1, "mode": "standard"},  # the receiver counts and backs off itself
        max_pool_connections=FURTHER_CONNECTIONS + 2 * long_polls,  # each batch is deleted beside the next polls
        tcp_keepalive=True,
        parameter_validation=False,  # it takes 5 % of a call, for parameters that are all ours
    )


def _check_encoding(response_dict: Mapping[str, Any], **_: object) -> None:
    """Refuse an answer that is not UTF-8, with any status; botocore's error names neither the answer nor its sender.

    Raises:
        ForeignAnswer: it is not UTF-8.
    """
    content: bytes = response_dict["body"]
    if content.isascii():
        return
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise _foreign(content) from error


def _check_answer(http_response: Any, parsed: Mapping[str, Any], model: Any, **_: object) -> None:
    """Refuse a successful answer that is not JSON; botocore reads a web page, half an answer, or none as empty.

    Raises:
        ForeignAnswer: it is not a JSON object, and SQS answers this operation with one.
    """
    content: bytes = http_response.content
    if parsed.keys() - {"ResponseMetadata"} or (model.output_shape is None and not content.strip()):
        return
    try:
        msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise _foreign(content) from error


def _foreign(content: bytes) -> ForeignAnswer:
    shown = repr(content[:SHOWN_OF_FOREIGN_ANSWER].decode(errors="replace")) if content.strip() else "it is empty"
    return ForeignAnswer(f"the answer is not one of SQS: {shown}")


def _now(answer: dict[str, Any]) -> datetime:
    """Return the time: that of the server, which SentTimestamp is of, if this machine's clock is wrong."""
    here = datetime.now(UTC)
    try:
        there = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return there if abs((there - here).total_seconds()) > TOLERATED_SKEW_SECONDS else here
    except (KeyError, TypeError, ValueError):  # without a date, or without its zone
        return here


def _message(answer: dict[str, Any], now: datetime) -> Message:
    sent = (answer.get("Attributes") or {}).get("SentTimestamp")
    sent_at = json_fields.unix_time(sent) or now
    return Message(
        message_id=answer.get("MessageId", ""),
        receipt_handle=answer["ReceiptHandle"],
        body=answer.get("Body", ""),
        sent_at=sent_at,
        sent_on_clock=time.monotonic() - max(0.0, (now - sent_at).total_seconds()),
    )


def _failures(answer: dict[str, Any], what: str) -> Iterable[dict[str, Any]]:
    failed: list[dict[str, Any]] = answer.get("Failed") or []
    for entry in failed:
        log.warning(
            "queue.entry_failed",
            extra={"what": what, "code": entry.get("Code"), "error": _redacted(str(entry.get("Message")))},
        )
    return failed


def _is_final(failed: dict[str, Any]) -> bool:
    return failed.get("Code") in GONE or bool(failed.get("SenderFault"))


def _batches(messages: Sequence[Message]) -> Iterable[Sequence[Message]]:
    return (messages[at : at + BATCH] for at in range(0, len(messages), BATCH))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An HTTP endpoint with the SQS protocol for boto3 (AWS JSON 1.0): long polls, visibility, batches, planned faults."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tests.stack import http_connection, sqs_actions, sqs_errors
from tests.stack.change import Change
from tests.stack.http_connection import HttpConnection
from tests.stack.ports import free_port
from tests.stack.sqs_errors import SqsError
from tests.stack.sqs_faults import Faults
from tests.stack.sqs_queue import Queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

ACCOUNT = "000000000000"
QUEUE = "engagement-events"
_JSON = "application/x-amz-json-1.0"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Call(NamedTuple):
    """One received call."""

    action: str
    payload: dict[str, Any]
    authorization: str


class SqsEndpoint:
    """The endpoint with its queues; methods and properties without a queue are about the first one."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.queues: dict[str, Queue] = {}
        self.requests: list[Call] = []
        self.calls: Counter[str] = Counter()
        self.faults = Faults()
        self.instead: dict[str, bytes | None] = {}
        """The body of the response to any call of an action; None is no response."""
        self.receive_headers: list[tuple[str, str]] = []
        """Further headers of responses to ReceiveMessage."""
        self._change = Change()
        self._connections: set[HttpConnection] = set()
        self._server: asyncio.Server | None = None

    @property
    def endpoint_url(self) -> str:
        """The value of AWS_ENDPOINT_URL_SQS and of boto3's endpoint_url."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def queue_url(self) -> str:
        """The first queue's URL."""
        return self.url_of(QUEUE)

    @property
    def queue(self) -> Queue:
        """The first queue."""
        return self.queues[QUEUE]

    @property
    def visible(self) -> int:
        """The number of visible messages."""
        return self.queue.visible

    @property
    def in_flight(self) -> int:
        """The number of messages that are received and not yet deleted."""
        return self.queue.in_flight

    @property
    def deleted(self) -> list[str]:
        """The ids of the deleted messages."""
        return self.queue.deleted

    @property
    def receives(self) -> int:
        """The number of calls of ReceiveMessage."""
        return self.calls["ReceiveMessage"]

    @property
    def open_connections(self) -> int:
        """The number of connected clients."""
        return len(self._connections)

    def url_of(self, name: str) -> str:
        """Return the URL of a queue."""
        return f"{self.endpoint_url}/{ACCOUNT}/{name}"

    def add_queue(self, name: str, *, visibility_timeout: float = 30.0) -> Queue:
        """Add a queue."""
        self.queues[name] = Queue(name, visibility_timeout=visibility_timeout)
        return self.queues[name]

    def send(self, body: str, sent_at: float | None = None) -> str:
        """Put a message in the first queue and return its id."""
        return self.queue.send(body, sent_at).message_id

    def redeliver(self) -> None:
        """End the visibility timeout of every message of the first queue, such as those of a killed receiver."""
        self.queue.redeliver()

    async def wait_until_empty(self, timeout: float = 30.0) -> None:
        """Return when the first queue has no visible message and none in flight."""
        await self.queue.wait_until_empty(timeout)

    async def wait_for_calls(self, action: str, count: int = 1, timeout: float = 30.0) -> None:
        """Return when `count` calls of an action were received, also failed ones."""
        await self._change.wait_until(
            lambda: self.calls[action] >= count, timeout, lambda: f"{self.calls[action]} of {count} {action}"
        )

    async def wait_for_no_connections(self, timeout: float = 30.0) -> None:
        """Return when every client has disconnected."""
        await self._change.wait_until(
            lambda: not self._connections, timeout, lambda: f"{self.open_connections} clients connected"
        )

    def fail_next(self, action: str, error_type: str = "InternalFailure", status: int = 500, times: int = 1) -> None:
        """Make the next calls of an action fail."""
        self.faults.fail_calls(action, SqsError(sqs_errors.Kind(error_type, status=status), "injected"), times)

    def fail_entries(
        self, action: str, times: int = 1, code: str = "InternalError", *, sender_fault: bool = False, count: int = 1
    ) -> None:
        """Make the first `count` entries of the next batches of an action fail."""
        failure = {"SenderFault": sender_fault, "Code": code, "Message": "injected"}
        self.faults.fail_entries(action, failure, count, times)

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HttpConnection(self._answer, self._connections, self._change), "127.0.0.1", self.port, backlog=1024
        )

    async def stop(self) -> None:
        """Stop listening and cut every connection, also long polls; messages stay."""
        if self._server is None:
            return
        self._server.close()
        await asyncio.gather(*[connection.cut() for connection in self._connections])
        await self._server.wait_closed()
        self._server = None

    def _answer(self, request: http_connection.Request) -> bytes | Awaitable[bytes]:
        try:
            payload = _decode(request.body or b"{}")
            action = request.headers.get("x-amz-target", "").removeprefix("AmazonSQS.")
            self.requests.append(Call(action, payload, request.headers.get("authorization", "")))
            self.calls[action] += 1
            self._change.notify()
            self.faults.raise_due(action)
            if action in self.instead:
                return _instead(self.instead[action])
            queue = sqs_actions.find_queue(self.queues, payload, request.path)
            return self._act(action, queue, payload)
        except SqsError as error:
            return _error(error)
        except msgspec.DecodeError as error:
            return _error(SqsError(sqs_errors.SERIALIZATION_EXCEPTION, str(error)))

    def _act(self, action: str, queue: Queue, payload: dict[str, Any]) -> bytes | Awaitable[bytes]:
        if action == "ReceiveMessage":
            return self._receive(queue, payload)
        if action == "GetQueueUrl":
            return _success({"QueueUrl": self.url_of(queue.name)})
        if act := sqs_actions.ACTIONS.get(action):
            return _success(act(queue, payload))
        if act := sqs_actions.BATCHES.get(action):
            return _success(sqs_actions.batch(queue, payload, act, self.faults.due_entries(action)))
        raise SqsError(sqs_errors.UNSUPPORTED_OPERATION, f"no action {action}")

    def _receive(self, queue: Queue, payload: dict[str, Any]) -> bytes | Awaitable[bytes]:
        wait = sqs_actions.wait_seconds(payload)
        messages = sqs_actions.receive(queue, payload)
        if wait and not messages:
            return _receive_later(queue, payload, time.monotonic() + wait, self.receive_headers)
        return _received(messages, self.receive_headers)


async def _receive_later(
    queue: Queue, payload: dict[str, Any], until: float, headers: Sequence[tuple[str, str]]
) -> bytes:
    while True:
        messages = sqs_actions.receive(queue, payload)
        if messages or time.monotonic() >= until:
            return _received(messages, headers)
        await queue.wait_for_change(until)


def _received(messages: list[dict[str, Any]], headers: Sequence[tuple[str, str]]) -> bytes:
    return _success({"Messages": messages} if messages else {}, *headers)


def _success(payload: dict[str, Any], *headers: tuple[str, str]) -> bytes:
    return http_connection.response(200, _encode(payload), _JSON, ("x-amzn-RequestId", str(uuid.uuid4())), *headers)


def _instead(body: bytes | None) -> bytes | Awaitable[bytes]:
    return asyncio.get_running_loop().create_future() if body is None else http_connection.response(200, body, _JSON)


def _error(error: SqsError) -> bytes:
    fault = "Sender" if error.kind.status < 500 else "Receiver"
    return http_connection.response(
        error.kind.status,
        _encode({"__type": f"com.amazonaws.sqs#{error.kind.name}", "message": error.message}),
        _JSON,
        ("x-amzn-RequestId", str(uuid.uuid4())),
        ("x-amzn-query-error", f"{error.code};{fault}"),
    )


@asynccontextmanager
async def running(
    *, visibility_timeout: float = 30.0, max_receive_count: int | None = None, port: int | None = None
) -> AsyncIterator[SqsEndpoint]:
    """Serve the queue `engagement-events`, with a max_receive_count also the dead-letter queue."""
    sqs = SqsEndpoint(port)
    queue = sqs.add_queue(QUEUE, visibility_timeout=visibility_timeout)
    if max_receive_count is not None:
        queue.redrive_to(sqs.add_queue(f"{QUEUE}-dlq"), max_receive_count)
    await sqs.start()
    try:
        yield sqs
    finally:
        await sqs.stop()

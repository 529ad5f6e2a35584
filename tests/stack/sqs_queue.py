# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One SQS standard queue in memory: visibility timeout, receipt handles, redrive. No sockets, no JSON."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import time
import uuid
from collections import deque
from enum import Enum, auto

import msgspec

from tests.stack.change import Change

SNS_MAY_SEND = json.dumps(
    {"Statement": [{"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}]}
)


class ReceiptHandleIsInvalid(Exception):
    """The input receipt handle is invalid."""


class NotInFlight(Exception):
    """Message does not exist or is not available for visibility timeout change."""


class State(Enum):
    """The state of a message."""

    VISIBLE = auto()
    IN_FLIGHT = auto()
    GONE = auto()


class Message(msgspec.Struct, kw_only=True):
    """A message and its history; times in seconds."""

    message_id: str
    body: str
    md5: str
    sent_at: float
    first_received_at: float = 0.0
    receive_count: int = 0
    state: State = State.VISIBLE
    due: float = 0.0

    @property
    def receipt_handle(self) -> str:
        """The handle of the latest receive."""
        return f"{self.message_id}#{self.receive_count}"


class Queue:
    """A deque of visible messages and a heap of messages in flight, so that the cost does not depend on the count."""

    def __init__(self, name: str, *, visibility_timeout: float = 30.0) -> None:
        self.name = name
        self.visibility_timeout = visibility_timeout
        self.dead_letters: Queue | None = None
        self.max_receive_count = 0
        self.attributes = {"MessageRetentionPeriod": "345600", "Policy": SNS_MAY_SEND}
        self.deleted: list[str] = []
        self._change = Change()
        self._messages: dict[str, Message] = {}
        self._visible: deque[Message] = deque()
        self._in_flight: list[tuple[float, str, Message]] = []
        self._in_flight_count = 0

    @property
    def visible(self) -> int:
        """The number of messages that a receive could get now."""
        self._release_due()
        return len(self._messages) - self._in_flight_count

    @property
    def in_flight(self) -> int:
        """The number of messages that are received and neither deleted nor visible again."""
        self._release_due()
        return self._in_flight_count

    @property
    def arn(self) -> str:
        """The queue's ARN."""
        return f"arn:aws:sqs:us-east-1:000000000000:{self.name}"

    @property
    def redrive_policy(self) -> str:
        """The redrive policy in the form of GetQueueAttributes; empty without one."""
        if self.dead_letters is None:
            return ""
        return json.dumps({"deadLetterTargetArn": self.dead_letters.arn, "maxReceiveCount": self.max_receive_count})

    def redrive_to(self, dead_letters: Queue, max_receive_count: int) -> None:
        """Move a message to this queue after this number of receives."""
        self.dead_letters = dead_letters
        self.max_receive_count = max_receive_count

    def send(self, body: str, sent_at: float | None = None) -> Message:
        """Put a message in."""
        message = Message(
            message_id=str(uuid.uuid4()),
            body=body,
            md5=hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
            sent_at=time.time() if sent_at is None else sent_at,
        )
        self._put(message)
        return message

    def receive(self, most: int, visibility_timeout: float) -> list[Message]:
        """Receive up to `most` messages."""
        self._release_due()
        received: list[Message] = []
        while self._visible and len(received) < most:
            message = self._visible.popleft()
            if message.state is not State.VISIBLE:
                continue  # deleted by the handle of an earlier receive
            if self.dead_letters and message.receive_count >= self.max_receive_count:
                self._move_to(self.dead_letters, message)
                continue
            message.receive_count += 1
            message.first_received_at = message.first_received_at or time.time()
            self._in_flight_count += 1
            self._hide(message, visibility_timeout)
            received.append(message)
        return received

    def delete(self, handle: str) -> None:
        """Delete by the handle of the latest receive, also after its timeout; a repeat is not an error, as in SQS.

        Raises:
            ReceiptHandleIsInvalid: an unknown handle, or one that a later receive has replaced.
        """
        message = self._find(handle)
        if message:
            self.deleted.append(message.message_id)
            self._remove(message)

    def change_visibility(self, handle: str, timeout: float) -> None:
        """Set the timeout from now; 0 makes the message visible at once.

        Raises:
            ReceiptHandleIsInvalid: as for delete.
            NotInFlight: deleted, or visible again.
        """
        self._release_due()
        message = self._find(handle)
        if message is None or message.state is not State.IN_FLIGHT:
            raise NotInFlight
        if timeout > 0:
            self._hide(message, timeout)
            self._change.notify()
        else:
            self._show(message)

    def purge(self) -> None:
        """Remove all messages."""
        for message in list(self._messages.values()):
            self._remove(message)

    def redeliver(self) -> None:
        """End the visibility timeout of every message in flight."""
        for message in self._messages.values():
            if message.state is State.IN_FLIGHT:
                self._show(message)

    async def wait_for_change(self, until: float) -> None:
        """Return when a message may have become visible, or at that time of the monotonic clock."""
        wake_at = min(until, self._in_flight[0][0]) if self._in_flight else until
        try:
            async with asyncio.timeout(max(0.0, wake_at - time.monotonic())):
                await self._change.wait()
        except TimeoutError:
            return

    async def wait_until_empty(self, timeout: float = 30.0) -> None:
        """Return when nothing is visible or in flight."""
        await self._change.wait_until(
            lambda: not self._messages, timeout, lambda: f"{self.visible} visible, {self.in_flight} in flight"
        )

    def _put(self, message: Message) -> None:
        self._messages[message.message_id] = message
        self._visible.append(message)
        self._change.notify()

    def _find(self, handle: str) -> Message | None:
        message_id, mark, count = handle.partition("#")
        if not mark or not count.isdecimal():
            raise ReceiptHandleIsInvalid
        message = self._messages.get(message_id)
        if message and int(count) != message.receive_count:
            raise ReceiptHandleIsInvalid
        return message

    def _hide(self, message: Message, timeout: float) -> None:
        message.state = State.IN_FLIGHT
        message.due = time.monotonic() + timeout
        heapq.heappush(self._in_flight, (message.due, message.message_id, message))

    def _show(self, message: Message) -> None:
        message.state = State.VISIBLE
        self._in_flight_count -= 1
        self._visible.append(message)
        self._change.notify()

    def _remove(self, message: Message) -> None:
        if message.state is State.IN_FLIGHT:
            self._in_flight_count -= 1
        message.state = State.GONE
        del self._messages[message.message_id]
        self._change.notify()

    def _move_to(self, dead_letters: Queue, message: Message) -> None:
        self._remove(message)
        message.state = State.VISIBLE
        dead_letters._put(message)

    def _release_due(self) -> None:
        now = time.monotonic()
        while self._in_flight and self._in_flight[0][0] <= now:
            due, _, message = heapq.heappop(self._in_flight)
            if message.state is State.IN_FLIGHT and message.due == due:
                self._show(message)

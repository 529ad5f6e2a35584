# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A caller of the services: it sends requests over NATS and subscribes to the push events."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import nats

from shared import contract
from tests.stack.change import Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

REPLY_SECONDS = 10.0
PUSH_SUBJECTS = (
    contract.EMAIL_DELIVERED_SUBJECT,
    contract.EMAIL_OPENED_SUBJECT,
    contract.EMAIL_LINK_CLICKED_SUBJECT,
    contract.EMAIL_FAILED_SUBJECT,
)


class Push(NamedTuple):
    """A push event as received."""

    subject: str
    data: bytes


class Caller:
    """Sends requests and collects push events."""

    def __init__(self, client: Client) -> None:
        self.pushes: list[Push] = []
        self._client = client
        self._change = Change()

    async def ask(self, subject: str, request: msgspec.Struct) -> bytes:
        """Send a request and return the body of its reply."""
        reply = await self._client.request(subject, msgspec.json.encode(request), timeout=REPLY_SECONDS)
        return reply.data

    async def subscribe(self) -> None:
        """Collect push events from now on."""
        for subject in PUSH_SUBJECTS:
            await self._client.subscribe(subject, cb=self._collect)
        await self._client.flush()

    async def wait_for_pushes(self, count: int, timeout: float) -> None:
        """Return when `count` push events were received."""
        await self._change.wait_until(lambda: len(self.pushes) >= count, timeout, lambda: f"{len(self.pushes)} pushes")

    async def _collect(self, msg: Msg) -> None:
        self.pushes.append(Push(msg.subject, msg.data))
        self._change.notify()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Caller]:
    """Connect during the block."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        yield Caller(client)
    finally:
        await client.close()

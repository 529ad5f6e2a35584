# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What a request keeps in memory while it waits for KV or the mail server."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from relay.records.idempotency_store import IdempotencyStore
from relay.send_email_handler import SendEmailHandler, Steps
from tests.relay.steps import OPTIONS, REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterator

HTML = "<p>Hello \U0001f600</p>\r\n" + "<p>Hello Ada</p>\r\n" * 50_000  # four bytes a character once it is decoded
DATA = json.dumps({**REQUEST, "html": HTML, "idempotency_key": "k"}, ensure_ascii=False).encode()


class Waiting:
    """All steps of a request; one of them waits until it may go on."""

    event = "email.sent"
    is_full = False

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.begun, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def _wait(self, stage: str) -> None:
        if stage == self._stage:
            self.begun.set()
            await self.may_go_on.wait()

    async def create(self, *_: object) -> int:
        """Store a key."""
        await self._wait("key")
        return 1

    async def update(self, *_: object) -> int:
        """Settle a key."""
        return 2

    async def find(self, _address: str) -> None:
        """Find no entry of the suppression list."""
        await self._wait("suppression")

    async def __call__(self, _envelope: object, message: bytes, **_: float) -> None:
        """Deliver."""
        await self._wait("delivery")
        assert len(message) > len(DATA) / 2

    async def write(self, *_: object, **__: object) -> None:
        """Store a record."""
        await self._wait("record")


@pytest.fixture
def traced() -> Iterator[None]:
    """Trace the memory."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("stage", "messages"), [("key", 1), ("suppression", 1), ("delivery", 1), ("record", 0)])
async def test_a_request_that_waits_keeps_its_message_until_it_is_delivered_and_nothing_else(
    stage: str, messages: int
) -> None:
    waiting: Any = Waiting(stage)
    keys = IdempotencyStore(waiting, timedelta(seconds=48))
    handler = SendEmailHandler(OPTIONS, Steps(waiting, waiting, keys, waiting))
    before, _ = tracemalloc.get_traced_memory()
    answering = asyncio.create_task(handler(bytes(bytearray(DATA))))  # the only reference to these bytes
    async with asyncio.timeout(10):
        await waiting.begun.wait()
    kept = tracemalloc.get_traced_memory()[0] - before
    waiting.may_go_on.set()
    assert set(json.loads(await answering)) == {"email_id", "group_id"}
    assert kept / len(DATA) == pytest.approx(messages, abs=0.3)

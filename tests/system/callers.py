# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Callers that send one email after the other and remember what was acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.system.requests import SEND_EMAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.requests import Requests

OUTCOME_UNKNOWN = "delivery outcome unknown"
PAUSE_SECONDS = 0.1
LAST_SECONDS = 40.0  # for the requests that are under way when the time is over


class Callers:
    """Some callers that share what they know."""

    def __init__(
        self, requests: Requests, *, count: int, groups: int, with_key: Callable[[int], bool], pause: float = 0.0
    ) -> None:
        """Send under idempotency keys for the callers whose number `with_key` accepts; these repeat."""
        self.acknowledged: dict[str, str] = {}  # email_id -> group_id
        self.replies: Counter[str] = Counter()
        self.unanswered = 0
        self.groups = [f"group-{number}" for number in range(groups)]
        self._requests = requests
        self._count = count
        self._with_key = with_key
        self._pause = pause
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Send until `stop`; each caller ends with an answer to its last request."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._count):
                tasks.create_task(self._send_all(number))

    def stop(self) -> None:
        """Begin no other email."""
        self._stopping.set()

    async def _send_all(self, caller: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            await self._send(caller, number)
            await asyncio.sleep(self._pause)

    async def _send(self, caller: int, number: int) -> None:
        group_id = self.groups[(caller + number) % len(self.groups)]
        name, with_key = f"c{caller}-{number}", self._with_key(caller)
        request = {
            "to": f"{name}@example.com",
            "subject": name,
            "html": "<p>Hello</p>",
            "text": "Hello",
            "group_id": group_id,
        }
        if with_key:
            request["idempotency_key"] = name
        reply = await self._ask(request)
        deadline = asyncio.get_running_loop().time() + LAST_SECONDS
        while with_key and (reply is None or reply.get("error") not in {None, OUTCOME_UNKNOWN}):
            if self._stopping.is_set() and asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(PAUSE_SECONDS)
            reply = await self._ask(request)
        if reply and "email_id" in reply:
            self.acknowledged[reply["email_id"]] = group_id

    async def _ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        reply: dict[str, Any] | None = await self._requests.ask(SEND_EMAIL, request)
        if reply is None:
            self.unanswered += 1
            await asyncio.sleep(PAUSE_SECONDS)  # not to flood a server that is away
            return None
        self.replies[reply.get("error", "sent")] += 1
        return reply

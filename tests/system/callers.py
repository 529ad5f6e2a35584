# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Callers that send one email after the other and remember what was acknowledged."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import nats.errors

if TYPE_CHECKING:
    from nats.aio.client import Client

SEND_EMAIL = "lfx.email-service.send_email"
GET_ANALYTICS = "lfx.email-service.get_email_engagement_analytics"
OUTCOME_UNKNOWN = "delivery outcome unknown"
PATIENCE_SECONDS = 3.0
PAUSE_SECONDS = 0.1
LAST_SECONDS = 40.0  # for the requests that are under way when the time is over


class Callers:
    """Some callers that share what they know."""

    def __init__(self, client: Client, *, count: int, groups: int, with_keys: bool, patience: float) -> None:
        self.acknowledged: dict[str, str] = {}  # email_id -> group_id
        self.replies: Counter[str] = Counter()
        self.unanswered = 0
        self.groups = [f"chaos-{number}" for number in range(groups)]
        self._client = client
        self._count = count
        self._with_keys = with_keys
        self._patience = patience
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Send until `stop`; each caller ends with an answer to its last request."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._count):
                tasks.create_task(self._send_all(number))
            tasks.create_task(self._watch())

    def stop(self) -> None:
        """Begin no other email."""
        self._stopping.set()

    async def _send_all(self, caller: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            await self._send(caller, number)

    async def _send(self, caller: int, number: int) -> None:
        group_id = self.groups[(caller + number) % len(self.groups)]
        name = f"c{caller}-{number}"
        request = {
            "to": f"{name}@example.com",
            "subject": name,
            "html": "<p>Hello</p>",
            "text": "Hello",
            "group_id": group_id,
        }
        if self._with_keys:
            request["idempotency_key"] = name
        reply: dict[str, Any] | None = await self._ask(request)
        deadline = asyncio.get_running_loop().time() + LAST_SECONDS
        while self._with_keys and (reply is None or reply.get("error") not in {None, OUTCOME_UNKNOWN}):
            if self._stopping.is_set() and asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(PAUSE_SECONDS)
            reply = await self._ask(request)
        if reply and "email_id" in reply:
            self.acknowledged[reply["email_id"]] = group_id

    async def _ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        try:
            msg = await self._client.request(SEND_EMAIL, json.dumps(request).encode(), timeout=self._patience)
        except (nats.errors.Error, TimeoutError):
            self.unanswered += 1
            await asyncio.sleep(PAUSE_SECONDS)  # not to flood a server that is away
            return None
        reply: dict[str, Any] = json.loads(msg.data)
        self.replies[reply.get("error", "sent")] += 1
        return reply

    async def _watch(self) -> None:
        """Ask for analytics all the time, so that the trackers follow the buckets through every outage."""
        while not self._stopping.is_set():
            for group_id in self.groups:
                await analytics(self._client, group_id)
            await asyncio.sleep(PAUSE_SECONDS)


async def analytics(client: Client, group_id: str) -> dict[str, Any]:
    """Return the answer of either tracker; empty if there is none in time."""
    try:
        msg = await client.request(GET_ANALYTICS, json.dumps({"group_id": group_id}).encode(), timeout=PATIENCE_SECONDS)
    except (nats.errors.Error, TimeoutError):
        return {}
    answer: dict[str, Any] = json.loads(msg.data)
    return answer

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Requests of callers, each with an inbox of its own, whose replies are counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import nats.errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

SEND_EMAIL = "lfx.email-service.send_email"
GET_STATUS = "lfx.email-service.get_email_status"
GET_ANALYTICS = "lfx.email-service.get_email_engagement_analytics"


class Requests:
    """Requests over one connection, for as long as the context is open."""

    def __init__(self, client: Client, *, patience: float) -> None:
        """Wait for each reply for `patience` seconds."""
        self.asked: dict[str, Mapping[str, object]] = {}  # inbox -> request
        self.replies: Counter[str] = Counter()  # by inbox
        self.unanswered: set[str] = set()
        self._client = client
        self._patience = patience
        self._prefix = f"{client.new_inbox()}."
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    async def __aenter__(self) -> Self:
        """Subscribe to the inboxes."""
        await self._client.subscribe(f"{self._prefix}*", cb=self._receive)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: the subscription ends with its connection."""

    async def ask(self, subject: str, request: Mapping[str, object]) -> Any:
        """Send a request and return the decoded reply; None if there is none in time, or no process serves it."""
        inbox = f"{self._prefix}{len(self.asked)}"
        self.asked[inbox] = request
        waiting = self._waiting[inbox] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._patience):
                await self._client.publish(subject, json.dumps(request).encode(), reply=inbox)
                reply = await waiting
        except (nats.errors.Error, TimeoutError):
            self.unanswered.add(inbox)
            return None
        finally:
            del self._waiting[inbox]
        if reply.headers and reply.headers.get("Status") == "503":
            self.unanswered.add(inbox)
            return None
        return json.loads(reply.data)

    async def analytics(self, group_id: str) -> dict[str, Any]:
        """Return the answer of either tracker; empty if there is none in time."""
        return await self.ask(GET_ANALYTICS, {"group_id": group_id}) or {}

    async def _receive(self, msg: Msg) -> None:
        self.replies[msg.subject] += 1
        waiting = self._waiting.get(msg.subject)
        if waiting and not waiting.done():
            waiting.set_result(msg)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A caller of the services: JSON over NATS request and reply, the push events of a subscriber."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import nats

from tests.stack.change import Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    Request = Mapping[str, object] | bytes

SEND_EMAIL = "lfx.email-service.send_email"
GET_EMAIL_STATUS = "lfx.email-service.get_email_status"
GET_EMAIL_ENGAGEMENT_ANALYTICS = "lfx.email-service.get_email_engagement_analytics"
EMAIL_DELIVERED = "lfx.email-service.email_delivered"
EMAIL_OPENED = "lfx.email-service.email_opened"
EMAIL_LINK_CLICKED = "lfx.email-service.email_link_clicked"
EMAIL_FAILED = "lfx.email-service.email_failed"

PATIENCE_SECONDS = 30.0
"""The timeout of today's callers."""

EMAIL = {"to": "ada@example.com", "subject": "Hello Ada", "html": "<p>Hello Ada</p>", "text": "Hello Ada"}


def email(**changes: object) -> dict[str, object]:
    """Return a valid request with changes; `from_` is the field `from`."""
    return EMAIL | {name.rstrip("_"): value for name, value in changes.items()}


def delivery_failed(outcome: str = "not_sent", *, permanent: bool = False, **more: object) -> dict[str, object]:
    """Return the reply to a request whose email was not accepted, or may not have been."""
    return {"error": "email delivery failed", "outcome": outcome, "permanent": permanent, **more}


class Push(NamedTuple):
    """A push event as received."""

    subject: str
    event: dict[str, Any]


class Pushes:
    """The push events since the subscription."""

    def __init__(self) -> None:
        self.all: list[Push] = []
        self._change = Change()

    async def wait_for(self, count: int, timeout: float = 30.0) -> list[Push]:
        """Return all of them once there are `count`."""
        await self._change.wait_until(lambda: len(self.all) >= count, timeout, lambda: f"{len(self.all)} of {count}")
        return self.all

    async def collect(self, msg: Msg) -> None:
        """Collect one message."""
        self.all.append(Push(msg.subject, json.loads(msg.data)))
        self._change.notify()


class Replies:
    """The replies to published requests, by the number of the request."""

    def __init__(self) -> None:
        self.bodies: dict[int, list[bytes]] = {}
        self._change = Change()

    async def wait_for(self, count: int, timeout: float = 30.0) -> None:
        """Return when `count` requests have a reply."""
        await self._change.wait_until(
            lambda: len(self.bodies) >= count, timeout, lambda: f"{len(self.bodies)} of {count} replies"
        )

    async def collect(self, msg: Msg) -> None:
        """Collect one message."""
        self.bodies.setdefault(int(msg.subject.rpartition(".")[2]), []).append(msg.data)
        self._change.notify()


class Caller:
    """Sends requests and waits for each reply, with a timeout."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, subject: str, request: Request, timeout: float = PATIENCE_SECONDS) -> Any:
        """Send a request and return its decoded reply."""
        return json.loads(await self.ask_raw(subject, request, timeout))

    async def ask_raw(self, subject: str, request: Request, timeout: float = PATIENCE_SECONDS) -> bytes:
        """Send a request and return the body of its reply."""
        reply = await self.client.request(subject, _encoded(request), timeout=timeout)
        return bytes(reply.data)

    async def send(self, **changes: object) -> Any:
        """Request an email, valid except for the changes."""
        return await self.ask(SEND_EMAIL, email(**changes))

    async def sent(self, **changes: object) -> str:
        """Send an email that is accepted, and return its id."""
        return str((await self.send(**changes))["email_id"])

    async def status(self, **request: object) -> Any:
        """Request the records of an email or a group."""
        return await self.ask(GET_EMAIL_STATUS, request)

    async def analytics(self, **request: object) -> Any:
        """Request the counts of a group."""
        return await self.ask(GET_EMAIL_ENGAGEMENT_ANALYTICS, request)

    async def publish_all(self, subject: str, requests: list[bytes]) -> Replies:
        """Publish requests, each with a reply subject of its own; return when the server received all of them."""
        replies, inbox = Replies(), self.client.new_inbox()
        await self.client.subscribe(f"{inbox}.*", cb=replies.collect)
        for number, request in enumerate(requests):
            await self.client.publish(subject, request, reply=f"{inbox}.{number}")
        await self.round_trip()
        return replies

    async def round_trip(self) -> None:
        """Return when the server processed everything that was sent; nats-py's flush may overtake pending messages."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        await self.client.publish(inbox, b"")
        await subscription.next_msg(PATIENCE_SECONDS)
        await subscription.unsubscribe()

    async def subscribe(self) -> Pushes:
        """Collect push events from now on."""
        pushes = Pushes()
        for subject in (EMAIL_DELIVERED, EMAIL_OPENED, EMAIL_LINK_CLICKED, EMAIL_FAILED):
            await self.client.subscribe(subject, cb=pushes.collect)
        await self.round_trip()
        return pushes


def _encoded(request: Request) -> bytes:
    return request if isinstance(request, bytes) else json.dumps(request).encode()


@asynccontextmanager
async def connected(servers: str | list[str]) -> AsyncIterator[Caller]:
    """Connect during the block; reconnect after any outage of the server."""
    client = await nats.connect(servers, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore)
    try:
        yield Caller(client)
    finally:
        await client.close()


async def _ignore(_error: Exception) -> None:
    """Ignore outages, which the tests cause; nats-py would log each of them."""

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A permission that a nats-server revokes and grants again by a reload: the subscription comes back."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import nats
import nats.errors
import pytest

from shared import contract
from shared.errors import NotPermitted
from shared.nats import denied_subscriptions, inbox
from shared.nats.endpoint import Endpoint
from shared.nats.inbox import Inbox
from shared.nats.micro import Discovery
from tests.shared.connections import connected, events, has_reconnected, was_never_lost
from tests.shared.nats import permissions_reload
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from shared.nats.connection import Connection
    from tests.shared.nats.permissions_reload import Permissions

SUBJECT = "lfx.email-service.test"
GROUP = contract.QUEUE_GROUP
DENIED = f"the NATS user may not subscribe to {SUBJECT} in the queue group {GROUP}"


pytestmark = pytest.mark.usefixtures("impatience")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Subscribe again after 0.02 s, and log at info."""
    monkeypatch.setattr(denied_subscriptions, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(inbox, "TIMEOUT_SECONDS", 0.5)
    caplog.set_level(logging.INFO)


@pytest.fixture
async def permissions() -> AsyncIterator[Permissions]:
    """A server whose user may do everything at first."""
    async with permissions_reload.running() as running:
        yield running


@pytest.fixture
async def ours(permissions: Permissions) -> AsyncIterator[Connection]:
    """The connection of the restricted user."""
    async with connected(permissions.url) as opened:
        yield opened


@pytest.fixture
async def caller(permissions: Permissions) -> AsyncIterator[Client]:
    """A client with all permissions."""
    async with await nats.connect(permissions.admin_url) as client:
        yield client


async def echo(data: bytes, _headers: object) -> bytes:
    return data


async def answers(caller: Client, subject: str = SUBJECT) -> bool:
    """Return whether a request is answered."""
    try:
        return bool((await caller.request(subject, b"x", timeout=1.0)).data)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return False


async def test_an_endpoint_answers_again_after_its_subject_was_revoked_and_granted(
    permissions: Permissions, ours: Connection, caller: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with Endpoint(ours, SUBJECT, echo, max_in_flight=1):
        for times in (1, 2):
            await permissions.deny(subscribe=[SUBJECT])
            await until(lambda: ours.obstacle, DENIED.__eq__)
            await until(lambda: permissions.server.log.count("Subscription Violation"), (3 * times).__le__)
            assert not await answers(caller)
            await permissions.allow()
            await until(lambda: ours.obstacle, "".__eq__)
            assert await answers(caller)
            assert events(caplog, "nats.denied") == [DENIED] * times
            assert len(events(caplog, "nats.permitted")) == times
        assert was_never_lost(ours)


async def test_a_subject_that_was_denied_from_the_start_is_served_once_it_is_permitted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        permissions_reload.running(subscribe=[f"{SUBJECT} {GROUP}"]) as permissions,
        connected(permissions.url) as ours,
        Endpoint(ours, SUBJECT, echo, max_in_flight=1),
        await nats.connect(permissions.admin_url) as caller,
    ):
        assert ours.obstacle == DENIED, "known as soon as the endpoint has subscribed"
        await permissions.allow()
        await until(lambda: ours.obstacle, "".__eq__)
        assert await answers(caller)
    assert events(caplog, "nats.denied") == [DENIED]


async def test_requests_are_answered_again_after_the_inbox_was_revoked_and_granted(
    permissions: Permissions, ours: Connection, caller: Client
) -> None:
    async with (
        Endpoint(ours, SUBJECT, echo, max_in_flight=1),
        connected(permissions.url) as asking,
        Inbox(asking) as box,
    ):
        assert (await box.request(SUBJECT, b"1")).data == b"1"
        await permissions.deny(subscribe=["_INBOX.>"])
        await until(lambda: asking.obstacle, lambda text: "may not subscribe to _INBOX." in text)
        with pytest.raises(NotPermitted, match="may not subscribe to _INBOX"):
            await box.request(SUBJECT, b"2")
        assert await answers(caller)
        await permissions.allow()
        await until(lambda: asking.obstacle, "".__eq__)
        assert (await box.request(SUBJECT, b"3")).data == b"3"


async def test_replies_are_sent_again_after_their_subjects_were_revoked_and_granted(
    permissions: Permissions, ours: Connection, caller: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with Endpoint(ours, SUBJECT, echo, max_in_flight=1):
        await permissions.deny(publish=["_INBOX.>"])
        assert not await answers(caller)
        assert "may not publish to _INBOX" in events(caplog, "nats.denied")[0]
        assert not ours.obstacle
        await permissions.allow()
        assert await answers(caller)


async def test_discovery_is_answered_again_and_its_denial_is_no_obstacle(
    permissions: Permissions, ours: Connection, caller: Client
) -> None:
    async with Endpoint(ours, SUBJECT, echo, max_in_flight=1) as endpoint, Discovery(ours, "tests", "", [endpoint]):
        await permissions.deny(subscribe=["$SRV.>"])
        await until(lambda: permissions.server.log.count("Subscription Violation"), (11).__le__)
        assert not ours.obstacle
        assert not await answers(caller, "$SRV.PING.tests")
        await permissions.allow()
        await until(lambda: answers(caller, "$SRV.PING.tests"))
        await until(lambda: answers(caller, "$SRV.STATS"))
        assert json.loads((await caller.request("$SRV.INFO.tests", b"", timeout=20)).data)["name"] == "tests"


async def test_a_subscription_that_has_ended_is_not_tried_again(permissions: Permissions, ours: Connection) -> None:
    subscription = await ours.subscribe(SUBJECT, lambda _: None, required=True)
    await permissions.deny(subscribe=[SUBJECT])
    await until(lambda: ours.obstacle)
    await subscription.unsubscribe()
    assert not ours.obstacle
    await until(lambda: ours.denial_of(subscription), lambda denial: denial is None)


async def test_a_server_that_permits_it_after_a_restart_has_the_subscription_at_once(
    permissions: Permissions, ours: Connection, caller: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denied_subscriptions, "RETRY_SECONDS", 60.0)
    async with Endpoint(ours, SUBJECT, echo, max_in_flight=1):
        await permissions.deny(subscribe=[SUBJECT])
        await until(lambda: ours.obstacle, DENIED.__eq__)
        await permissions.server.kill()
        permissions.server.configure(permissions_reload.config())
        await permissions.server.start()
        await until(lambda: has_reconnected(ours))
        await until(lambda: ours.obstacle, "".__eq__)
        await until(lambda: answers(caller))


async def test_a_denial_is_kept_while_the_connection_is_lost(permissions: Permissions, ours: Connection) -> None:
    await ours.subscribe(SUBJECT, lambda _: None, GROUP, required=True)
    await permissions.deny(subscribe=[SUBJECT])
    await until(lambda: ours.obstacle, DENIED.__eq__)
    await permissions.server.kill()
    await until(lambda: ours.obstacle, "NATS is not connected".__eq__)
    await permissions.server.start()
    await until(lambda: has_reconnected(ours))
    assert ours.obstacle == DENIED

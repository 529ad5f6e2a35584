# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both services while a reload of the nats-server revokes permissions of their user, and grants them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import nats
import pytest

from tests.acceptance import caller as callers
from tests.acceptance import mails, services
from tests.acceptance.buckets import Buckets
from tests.acceptance.event_cases import at
from tests.shared.nats import permissions_reload
from tests.stack import console, ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.caller import Caller
    from tests.shared.nats.permissions_reload import Permissions
    from tests.stack.console import Console

QUERIES: Final = [callers.GET_EMAIL_STATUS, callers.GET_EMAIL_ENGAGEMENT_ANALYTICS]
PUBLISHED: Final = ["_INBOX.>", "$JS.>", "$KV.>", "lfx.>"]
QUICK: Final = 5.0  # less than a request waits for KV


@pytest.fixture
async def permissions() -> AsyncIterator[Permissions]:
    """A server whose user has all permissions, with the buckets."""
    async with permissions_reload.running() as running:
        async with await nats.connect(running.admin_url) as admin:
            await Buckets(admin).create()
        yield running


@pytest.fixture
async def caller(permissions: Permissions) -> AsyncIterator[Caller]:
    """A caller with all permissions."""
    async with callers.connected(permissions.admin_url) as connected:
        yield connected


async def reason(process: Console) -> str:
    """Return the body of /readyz."""
    return (await process.get("/readyz"))[1]


async def test_a_relay_serves_again_after_its_permissions_were_revoked_and_granted(
    permissions: Permissions, caller: Caller
) -> None:
    more = {"NATS_URL": permissions.url, "SEND_RETRY_SECONDS": "1"}
    async with smtp_servers.running() as smtp, services.relay(permissions.server, smtp, **more) as relay:
        await permissions.deny(subscribe=["_INBOX.>"])
        await relay.wait_for_status("/readyz", 503)
        assert "may not subscribe to _INBOX.relay." in await reason(relay)
        assert "email_relay_nats_connected 0.0\n" in (await relay.get("/metrics"))[1], "so that an alert fires"
        kept = await caller.sent(group_id="g")
        await permissions.deny(subscribe=[callers.SEND_EMAIL, "$SRV.>"], publish=PUBLISHED)
        await until(lambda: reason(relay), lambda text: callers.SEND_EMAIL in text)
        await permissions.allow()
        await relay.wait_until_ready()
        late = await caller.ask(callers.SEND_EMAIL, callers.email(group_id="g"), timeout=QUICK)
        await relay.wait_for_log("record.stored_late")
        records = await Buckets(caller.client).records([kept, late["email_id"]])
        assert [record["group_id"] for record in records] == ["g", "g"]
        assert [mails.email_id(one) for one in smtp.mails] == [kept, late["email_id"]]
        assert len({line["error"] for line in relay.logged("nats.denied")}) == len(relay.logged("nats.denied"))


async def test_a_tracker_serves_again_after_its_permissions_were_revoked_and_granted(
    permissions: Permissions, caller: Caller
) -> None:
    async with (
        sqs_endpoints.running() as sqs,
        smtp_servers.running() as smtp,
        services.relay(permissions.server, smtp, NATS_URL=permissions.admin_url),
        services.tracker(permissions.server, sqs, NATS_URL=permissions.url) as tracker,
    ):
        email_id = await caller.sent(group_id="g")
        assert (await caller.analytics(group_id="g"))["total_sent"] == 1
        pushes = await caller.subscribe()
        await permissions.deny(subscribe=[*QUERIES, "_INBOX.>", "$SRV.>"], publish=PUBLISHED)
        await tracker.wait_for_status("/readyz", 503)
        sqs.send(ses_events.notification(ses_events.delivery(f"g/{email_id}", at(1))))
        await tracker.wait_for_log("event.postponed")
        await permissions.allow()
        await tracker.wait_until_ready()
        await sqs.wait_until_empty()
        assert (await caller.ask(callers.GET_EMAIL_STATUS, {"email_id": email_id}, timeout=QUICK))["delivered"]
        analytics = await caller.ask(callers.GET_EMAIL_ENGAGEMENT_ANALYTICS, {"group_id": "g"}, timeout=QUICK)
        assert analytics["delivered"] == 1
        assert [push.subject for push in await pushes.wait_for(1)] == [callers.EMAIL_DELIVERED]


async def test_a_relay_whose_subject_is_denied_at_its_start_is_ready_once_it_is_permitted(
    permissions: Permissions,
) -> None:
    await permissions.deny(subscribe=[callers.SEND_EMAIL])
    async with console.running(services.RELAY, "serve", env={"NATS_URL": permissions.url}) as relay:
        await relay.wait_for_log("relay.serving")
        assert callers.SEND_EMAIL in await reason(relay)
        await permissions.allow()
        await relay.wait_until_ready()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A query whose bucket the NATS user may not read is answered at once with `internal error`, and logged once."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from shared import contract
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import denied_subscriptions
from tests.shared.connections import as_user, connected, events, with_inbox
from tests.shared.nats import permissions_reload
from tests.stack import nats_server
from tests.stack.waiting import until
from tests.tracker.examples import EMAIL, GROUP, record
from tracker.events import records
from tracker.queries import live_counts, stream_follower
from tracker.queries.email_analytics_handler import EmailAnalyticsHandler
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RECORDS, INDEX = contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET
BY_EMAIL, BY_GROUP = {"email_id": EMAIL}, {"group_id": GROUP}
BOTH = ("status", "analytics")


class Handlers(NamedTuple):
    """Both handlers of a tracker."""

    status: EmailStatusHandler
    analytics: EmailAnalyticsHandler


@asynccontextmanager
async def tracker_without(*denied: str) -> AsyncIterator[Handlers]:
    """Run a server with a record and its group, and a tracker that may not publish to some subjects."""
    deny = ", ".join(f'"{subject}"' for subject in denied)
    users = (
        f"{{ user: admin, password: a }}, {{ user: t, password: t, permissions: {{ publish: {{ deny: [{deny}] }} }} }}"
    )
    async with (
        nats_server.running(f"authorization {{ users: [ {users} ] }}") as server,
        tracker_on(as_user(server.url, "admin:a"), as_user(server.url, "t:t")) as handlers,
    ):
        yield handlers


@asynccontextmanager
async def tracker_on(admin_url: str, url: str) -> AsyncIterator[Handlers]:
    """Create a record and its group as the admin, and run a tracker as the other user."""
    async with connected(admin_url) as admin:
        await create_missing(admin, [RECORDS, INDEX])
        jetstream = admin.client.jetstream()
        await (await jetstream.key_value(RECORDS)).put(EMAIL, records.encode(record(delivered=True)))
        await (await jetstream.key_value(INDEX)).put(GROUP, json.dumps([EMAIL]).encode())
    async with with_inbox(url) as (connection, inbox):
        recipients, index = Bucket(inbox, connection, RECORDS), Bucket(inbox, connection, INDEX)
        groups, follow = GroupReader(recipients, index), partial(StreamFollower, connection, inbox)
        counts = LiveCounts(groups, recipients, index, follow)
        status = EmailStatusHandler(recipients, groups, connection.payload_limit)
        yield Handlers(status, EmailAnalyticsHandler(counts.count))
        await counts.aclose()


@pytest.mark.parametrize("bucket", [RECORDS, INDEX])
@pytest.mark.parametrize("requests", ["STREAM.INFO", "DIRECT.GET", "*"])
async def test_a_denied_bucket_is_an_internal_error(
    bucket: str, requests: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    subjects = [f"$JS.API.{requests}.KV_{bucket}", f"$JS.API.{requests}.KV_{bucket}.>"]
    if requests == "*":
        subjects = ["$JS.API.>"]
    async with tracker_without(*subjects) as handlers:
        for handler in handlers:
            caplog.clear()
            assert json.loads(await handler(json.dumps(BY_GROUP).encode())) == {"error": "internal error"}
            assert [line.message for line in caplog.records if line.message != "nats.denied"] == ["query.failed"]
            assert "the NATS user may not publish to $" in vars(caplog.records[-1])["error"]
            assert not any(line.exc_info for line in caplog.records)


async def test_a_denied_record_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    async with tracker_without(
        f"$JS.API.DIRECT.GET.KV_{RECORDS}.>", f"$JS.API.STREAM.MSG.GET.KV_{RECORDS}"
    ) as handlers:
        assert json.loads(await handlers.status(json.dumps(BY_EMAIL).encode())) == {"error": "internal error"}
        assert [line.message for line in caplog.records if line.levelname == "ERROR"][-1] == "query.failed"


async def test_counts_are_read_from_the_records_while_the_messages_of_the_streams_are_denied(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(live_counts, "REFUSED_SECONDS", 0.0)
    monkeypatch.setattr(denied_subscriptions, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(stream_follower, "CATCH_UP_SECONDS", 60.0)
    async with (
        permissions_reload.running(subscribe=["_INBOX.*"]) as permissions,
        tracker_on(permissions.admin_url, permissions.url) as handlers,
    ):

        async def logged(event: str) -> int:
            assert json.loads(await handlers.analytics(json.dumps(BY_GROUP).encode()))["delivered"] == 1
            return len(events(caplog, event))

        for times in (1, 2):
            await until(partial(logged, "analytics.not_followed"), times.__eq__)
            assert "may not subscribe to _INBOX." in events(caplog, "analytics.not_followed")[-1]
            await permissions.allow()
            await until(partial(logged, "analytics.followed"), times.__eq__)
            await permissions.deny(subscribe=["_INBOX.*"])


async def test_without_permission_for_a_consumer_analytics_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with tracker_without("$JS.API.CONSUMER.>") as handlers:
        for _ in range(3):
            assert json.loads(await handlers.analytics(json.dumps(BY_GROUP).encode()))["delivered"] == 1
    assert [line.message for line in caplog.records if line.name.startswith("tracker")] == ["analytics.not_followed"]

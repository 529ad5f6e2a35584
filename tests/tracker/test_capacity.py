# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The tracker knows how full the buckets and the account are, asked for once a minute."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import nats
import pytest_asyncio
from nats.js.api import KeyValueConfig

from shared.kv.bucket import Bucket
from shared.nats.inbox import Inbox
from tests.shared.connections import as_user, connected
from tests.stack import nats_proxy
from tests.stack import nats_server as servers
from tests.stack.waiting import until
from tracker import capacity
from tracker.capacity import Capacity, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

    from tests.stack.nats_server import NatsServer

MEGA = 1_000_000
CONFIG = """
accounts {
  LIMITED {
    jetstream: { max_file: 20000000, max_mem: 1000000 }
    users: [
      { user: all, password: s3cret }
      { user: blind, password: s3cret
        permissions: { publish: { deny: ["$JS.API.INFO", "$JS.API.STREAM.INFO.KV_limited"] } } }
    ]
  }
  FREE { jetstream: enabled, users: [{ user: free, password: s3cret }] }
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[NatsServer]:
    """A nats-server with an account that has a limit, and one that has none."""
    async with servers.running(CONFIG) as running:
        yield running


@asynccontextmanager
async def asking(url: str, *names: str) -> AsyncIterator[tuple[Capacity, Inbox]]:
    """Connect as the tracker does."""
    async with connected(url) as connection, Inbox(connection) as inbox:
        yield Capacity(inbox, [Bucket(inbox, connection, name) for name in names]), inbox


@asynccontextmanager
async def with_buckets(url: str) -> AsyncIterator[JetStreamContext]:
    """Create a bucket with a limit, and one without."""
    async with await nats.connect(url) as client:
        js = client.jetstream()
        await js.create_key_value(KeyValueConfig("limited", max_bytes=MEGA))
        await js.create_key_value(KeyValueConfig("free"))
        yield js
        for name in ("limited", "free"):
            await js.delete_key_value(name)


async def test_buckets_that_exist_and_the_account_have_a_size_and_a_limit(server: NatsServer) -> None:
    url = as_user(server.url, "all:s3cret")
    async with with_buckets(url) as js, asking(url, "limited", "free", "missing") as (usages, _):
        await js.publish("$KV.limited.k", bytes(1000))
        await usages.ask()
        assert set(usages.buckets) == {"limited", "free"}
        stored, limit = usages.buckets["limited"]
        assert (1000 < stored < 1100, limit) == (True, MEGA)
        assert usages.buckets["free"] == Usage(0, math.inf)
        assert usages.account == Usage(stored, 20 * MEGA)


async def test_an_account_without_a_limit_is_never_full(server: NatsServer) -> None:
    async with asking(as_user(server.url, "free:s3cret")) as (usages, _):
        await usages.ask()
        assert usages.account == Usage(0, math.inf)


async def test_a_bucket_that_is_deleted_has_no_size_any_more(server: NatsServer) -> None:
    url = as_user(server.url, "all:s3cret")
    async with asking(url, "limited") as (usages, _):
        async with with_buckets(url):
            await usages.ask()
            assert usages.buckets
        await usages.ask()
        assert not usages.buckets


async def test_the_last_size_stays_while_nats_does_not_answer(server: NatsServer) -> None:
    url = as_user(server.url, "all:s3cret")
    async with (
        with_buckets(url) as js,
        nats_proxy.running(server.url) as proxy,
        asking(as_user(proxy.url, "all:s3cret"), "limited") as (usages, _),
    ):
        await usages.ask()
        known = usages.buckets, usages.account
        proxy.answer("$JS.API.", 2, nats_proxy.no_responders())
        await js.publish("$KV.limited.k", bytes(1000))
        await usages.ask()
        assert (usages.buckets, usages.account) == known


async def test_what_the_user_may_not_ask_for_is_not_asked_for_again_within_an_hour(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        with_buckets(as_user(server.url, "all:s3cret")),
        asking(as_user(server.url, "blind:s3cret"), "limited", "free") as (usages, inbox),
    ):
        asked: list[str] = []
        request = inbox.request

        async def noted(subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
            asked.append(subject)
            return await request(subject, payload, headers)

        monkeypatch.setattr(inbox, "request", noted)
        await usages.ask()
        await usages.ask()
        assert (set(usages.buckets), usages.account) == ({"free"}, None)
        assert len(asked) == 3 + 1


async def test_it_is_asked_for_at_once_and_again_after_each_interval(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "INTERVAL_SECONDS", 0.01)
    url = as_user(server.url, "all:s3cret")
    async with with_buckets(url) as js, asking(url, "limited") as (usages, _):
        watching = asyncio.create_task(usages.watch())
        await until(lambda: "limited" in usages.buckets)
        await js.publish("$KV.limited.k", bytes(1000))
        await until(lambda: usages.buckets["limited"].stored > 1000)
        watching.cancel()

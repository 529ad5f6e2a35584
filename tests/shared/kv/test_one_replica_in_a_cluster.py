# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A bucket with one replica in a cluster: a server that had a replica, and is behind, may still answer direct gets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import nats
import pytest

from shared.kv.bucket import Bucket
from tests.shared.connections import with_inbox
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers
from tests.stack.nats_proxy import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stack.nats_proxy import NatsProxy

DIRECT_GET = "$JS.API.DIRECT.GET.KV_b"


@pytest.fixture
async def proxy() -> AsyncIterator[NatsProxy]:
    """A proxy in front of a cluster that has the bucket `b` with one replica."""
    async with (
        servers.cluster() as cluster,
        await nats.connect([server.url for server in cluster]) as client,
        proxies.running(cluster[0].url) as proxy,
    ):
        await client.jetstream(timeout=10).create_key_value(bucket="b", history=1, direct=True, replicas=1)
        yield proxy


def old_value(revision: int) -> Answer:
    """Return an earlier value of the key `k`."""
    lines = ["NATS/1.0", "Nats-Stream: KV_b", "Nats-Subject: $KV.b.k", f"Nats-Sequence: {revision}", "", ""]
    return Answer(b"old", "\r\n".join(lines).encode())


def empty_batch(up_to: int) -> Answer:
    """Return the answer to a batch of a server that has followed the stream to this sequence, and has no key of it."""
    state = ["Nats-Num-Pending: 0", "Nats-Last-Sequence: 0", f"Nats-UpTo-Sequence: {up_to}", "", ""]
    return Answer(b"", "\r\n".join(["NATS/1.0 204 EOB", *state]).encode())


async def test_values_are_as_new_as_the_leader_has_them(proxy: NatsProxy) -> None:
    async with with_inbox(proxy.url) as (connection, inbox):
        bucket = Bucket(inbox, connection, "b")
        revision = await bucket.create("k", b"old")
        await bucket.update("k", b"new", revision)
        proxy.answer(f"{DIRECT_GET}.", sys.maxsize, lambda _: old_value(revision))
        assert (await bucket.get("k")).value == b"new"
        proxy.answer(DIRECT_GET, sys.maxsize, lambda _: empty_batch(revision))
        found = await bucket.get_many(["k", "missing"])
        assert {key: entry.value for key, entry in found.items()} == {"k": b"new"}

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A bucket that is not there, comes and goes, is full, expires its keys or has limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import KeyValueConfig

from shared.errors import KeyMissing, KeyTaken, StoreUnavailable, ValueTooLarge
from shared.kv import stream as bucket_stream
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats.inbox import HEADER_ROOM_BYTES, Inbox
from tests.shared.edges import as_user, with_inbox
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.js import JetStreamContext
    from nats.js.kv import KeyValue

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

METHODS: dict[str, Callable[[Bucket], Awaitable[Any]]] = {
    "info": lambda bucket: bucket.info(),
    "max_value_bytes": lambda bucket: bucket.max_value_bytes(),
    "get": lambda bucket: bucket.get("k"),
    "get_from_leader": lambda bucket: bucket.get_from_leader("k"),
    "create": lambda bucket: bucket.create("k", b"2"),
    "update": lambda bucket: bucket.update("k", b"2", 1),
    "rewrite": lambda bucket: bucket.rewrite("k", lambda _: (b"2", None)),
    "get_many": lambda bucket: bucket.get_many(["k"]),
    "get_matching": lambda bucket: bucket.get_matching("*"),
}
AT_ONCE = 1.5

each_method = pytest.mark.parametrize("method", METHODS)
each_exchange = pytest.mark.parametrize("method", [name for name in METHODS if name != "max_value_bytes"])
"""Those that ask the server each time."""


def jetstream_of(kv: KeyValue) -> JetStreamContext:
    """The way back from a bucket to JetStream."""
    return kv._js  # noqa: SLF001 - nats-py has no public one


@each_method
async def test_without_a_bucket_everything_is_unavailable_at_once_and_nothing_missing(
    method: str, nats_connection: Connection
) -> None:
    async with Inbox(nats_connection) as inbox:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await METHODS[method](Bucket(inbox, nats_connection, "none"))
        assert time.monotonic() - started < AT_ONCE


@each_exchange
async def test_a_bucket_that_was_deleted_is_unavailable_until_it_is_made_again(
    method: str, bucket: Bucket, kv: KeyValue
) -> None:
    await bucket.create("k", b"1")
    await bucket.get("k")
    await jetstream_of(kv).delete_key_value("b")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await METHODS[method](bucket)
    await jetstream_of(kv).create_key_value(bucket="b", direct=True)
    with pytest.raises(KeyMissing):
        await bucket.get("k")
    await bucket.create("k", b"1")
    if method == "create":
        with pytest.raises(KeyTaken):
            await METHODS[method](bucket)
    else:
        await METHODS[method](bucket)


@each_exchange
async def test_while_disconnected_everything_is_unavailable(
    method: str, bucket: Bucket, nats_server: NatsServer, nats_connection: Connection
) -> None:
    await bucket.get_many(["k"])
    await nats_server.kill()
    await until(lambda: not nats_connection.connected)
    with pytest.raises(StoreUnavailable):
        await METHODS[method](bucket)


@each_method
@pytest.mark.parametrize(
    "refusal",
    [
        proxies.js_error(503, 10008, "JetStream system temporarily unavailable"),
        proxies.js_error(503, 10039, "JetStream not enabled for account"),
        proxies.js_error(400, 10077, "maximum bytes exceeded"),
        proxies.no_responders(),
    ],
    ids=["unavailable", "not enabled", "full", "no responders"],
)
async def test_what_jetstream_refuses_is_unavailable_and_works_again_later(
    method: str, refusal: Any, bucket: Bucket, nats_connection: Connection, nats_proxy: NatsProxy
) -> None:
    await bucket.create("k", b"1")
    for prefix in ("$JS.API.STREAM", "$KV.b."):
        nats_proxy.answer(prefix, 1, refusal)
    nats_proxy.answer("$JS.API.DIRECT", 1, proxies.no_responders())
    async with Inbox(nats_connection) as inbox:
        with pytest.raises(StoreUnavailable):
            await METHODS[method](Bucket(inbox, nats_connection, "b"))
    for _ in range(2):
        with contextlib.suppress(StoreUnavailable):  # a refusal is left where the method did not come so far
            await bucket.get_from_leader("k")
    assert (await bucket.get_from_leader("k")).value == b"1"


async def test_a_full_bucket_is_unavailable_for_writes_and_readable(nats_proxy: NatsProxy, kv: KeyValue) -> None:
    await jetstream_of(kv).create_key_value(bucket="small", max_bytes=10_000, direct=True)
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "small")
        await bucket.create("k", bytes(6000))
        with pytest.raises(StoreUnavailable, match="10077"):
            await bucket.create("other", bytes(6000))
        assert (await bucket.get("k")).value == bytes(6000)


async def test_f87_a_key_that_expired_is_missing_and_can_be_written_again(nats_proxy: NatsProxy, kv: KeyValue) -> None:
    js = jetstream_of(kv)
    await js.create_key_value(KeyValueConfig(bucket="ttl", ttl=1.0, limit_marker_ttl=60.0, direct=True))
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "ttl")
        await bucket.create("k", b"1")
        await until_expired(js, "KV_ttl")
        for get in (bucket.get, bucket.get_from_leader):
            with pytest.raises(KeyMissing) as missing:
                await get("k")
            assert missing.value.revision == 2, "that of the marker the server left"
        assert await bucket.get_many(["k"]) == {}
        assert await bucket.get_matching("*") == {}
        assert await bucket.create("k", b"again") == 3
        assert (await bucket.get("k")).value == b"again"


async def until_expired(js: JetStreamContext, stream: str) -> None:
    """Return when the server has put its marker in the place of the first message."""
    async with asyncio.timeout(5):
        while (await js.stream_info(stream)).state.last_seq < 2:
            await asyncio.sleep(0.05)


async def test_a_value_may_be_as_large_as_the_buckets_own_limit(nats_proxy: NatsProxy, kv: KeyValue) -> None:
    await jetstream_of(kv).create_key_value(bucket="limited", max_value_size=64 * 1024, direct=True)
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "limited")
        largest = await bucket.max_value_bytes()
        assert largest == 64 * 1024 - HEADER_ROOM_BYTES
        revision = await bucket.create("k", bytes(largest))
        assert await bucket.update("k", bytes(largest), revision)
        for write in (
            bucket.create("other", bytes(64 * 1024)),
            bucket.update("k", bytes(64 * 1024), 2),
            bucket.rewrite("k", lambda _: (bytes(64 * 1024), None)),
        ):
            with pytest.raises(ValueTooLarge):
                await write
        assert (await bucket.get("k")).value == bytes(largest)


async def test_a_limit_that_changes_is_known_after_the_first_value_over_it(nats_proxy: NatsProxy, kv: KeyValue) -> None:
    js = jetstream_of(kv)
    await js.create_key_value(bucket="limited", max_value_size=2000, direct=True)
    config = (await js.stream_info("KV_limited")).config
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "limited")
        with pytest.raises(ValueTooLarge):
            await bucket.create("k", bytes(3000))
        await js.update_stream(config.evolve(max_msg_size=4000))
        assert await bucket.max_value_bytes() == 4000 - HEADER_ROOM_BYTES
        await bucket.create("k", bytes(3000))
        await js.update_stream(config.evolve(max_msg_size=1000))
        with pytest.raises(ValueTooLarge):
            await bucket.update("k", bytes(3000), 1)
        assert await bucket.max_value_bytes() == 1000 - HEADER_ROOM_BYTES


@pytest.mark.parametrize("method", ["get_from_leader", "create", "get_many"])
async def test_a_bucket_made_again_with_another_limit_is_seen_as_it_is_now(
    method: str, nats_proxy: NatsProxy, kv: KeyValue
) -> None:
    js = jetstream_of(kv)
    await js.create_key_value(bucket="limited", max_value_size=2000, direct=True)
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "limited")
        assert await bucket.max_value_bytes() == 2000 - HEADER_ROOM_BYTES
        await js.delete_key_value("limited")
        with pytest.raises(StoreUnavailable):
            await METHODS[method](bucket)
        await js.create_key_value(bucket="limited", max_value_size=4000, direct=False)
        assert await bucket.max_value_bytes() == 4000 - HEADER_ROOM_BYTES
        with pytest.raises(KeyMissing):
            await bucket.get("k")


async def test_a_value_may_be_as_large_as_the_server_takes_a_message() -> None:
    async with servers.running("max_payload: 64KB") as server, with_inbox(server.url) as (connected, inbox):
        await create_missing(connected, ["b"])
        bucket = Bucket(inbox, connected, "b")
        largest = await bucket.max_value_bytes()
        assert largest == 64 * 1024 - HEADER_ROOM_BYTES
        assert await bucket.update("k", bytes(largest), await bucket.create("k", bytes(largest))) == 2
        with pytest.raises(ValueTooLarge):
            await bucket.update("k", bytes(largest + 1), 2)
        assert (await bucket.get("k")).value == bytes(largest)
        assert connected.client.stats["reconnects"] == 0


async def test_a_bucket_made_again_is_told_from_the_old_one(bucket: Bucket, kv: KeyValue) -> None:
    first = (await bucket.info()).created
    assert first == (await bucket.info()).created
    await jetstream_of(kv).delete_key_value("b")
    await jetstream_of(kv).create_key_value(bucket="b")
    assert (await bucket.info()).created != first


async def test_what_is_known_of_a_bucket_is_believed_for_a_while_only(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await bucket.get_many(["k"])
    assert nats_proxy.published.count("$JS.API.STREAM.INFO.KV_b") == 1
    later = time.monotonic() + bucket_stream.BELIEVED_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await bucket.get_many(["k"])
    assert nats_proxy.published.count("$JS.API.STREAM.INFO.KV_b") == 2


async def test_in_an_account_without_jetstream_a_bucket_is_unavailable() -> None:
    users = "accounts { PLAIN: { users: [ {user: u, password: p} ] } }"
    async with servers.running(users) as server, with_inbox(as_user(server.url, "u:p")) as (connected, inbox):
        with pytest.raises(StoreUnavailable):
            await Bucket(inbox, connected, "b").get("k")

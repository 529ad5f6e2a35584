# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A bucket that is missing, deleted, full or unavailable, whose keys expire, or that limits the size of values."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import KeyValueConfig

from shared.errors import KeyMissing, KeyTaken, StoreFull, StoreUnavailable, ValueTooLarge
from shared.kv import bucket as buckets
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import payload_limit
from shared.nats.inbox import HEADER_ROOM_BYTES, Inbox
from tests.shared.connections import as_user, was_never_lost, with_inbox
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
    "purge": lambda bucket: bucket.purge("k", 1),
}
AT_ONCE = 30.0  # on a busy machine

each_method = pytest.mark.parametrize("method", METHODS)
each_exchange = pytest.mark.parametrize("method", [name for name in METHODS if name != "max_value_bytes"])
"""The methods that send a request each time."""


def jetstream_of(kv: KeyValue) -> JetStreamContext:
    """Return the JetStream client behind a bucket of nats-py."""
    return kv._js  # noqa: SLF001 - nats-py has no public one


@each_method
async def test_without_a_bucket_every_method_raises_unavailable_at_once(
    method: str, nats_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 10 * AT_ONCE)
    async with Inbox(nats_connection) as inbox:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await METHODS[method](Bucket(inbox, nats_connection, "none"))
        assert time.monotonic() - started < AT_ONCE


@each_exchange
async def test_a_deleted_bucket_is_unavailable_until_it_is_created_again(
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
async def test_every_method_raises_unavailable_while_disconnected(
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
        proxies.no_responders(),
    ],
    ids=["unavailable", "no responders"],
)
async def test_every_method_raises_unavailable_when_jetstream_refuses_and_works_afterwards(
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
        with contextlib.suppress(StoreUnavailable):  # a refusal is left if the method sent fewer requests
            await bucket.get_from_leader("k")
    assert (await bucket.get_from_leader("k")).value == b"1"


async def test_a_full_bucket_is_unavailable_for_writes_and_readable(nats_proxy: NatsProxy, kv: KeyValue) -> None:
    await jetstream_of(kv).create_key_value(bucket="small", max_bytes=10_000, direct=True)
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "small")
        await bucket.create("k", bytes(6000))
        with pytest.raises(StoreFull, match="10077"):
            await bucket.create("other", bytes(6000))
        assert (await bucket.get("k")).value == bytes(6000)


async def test_an_expired_key_is_missing_and_can_be_created_again(nats_proxy: NatsProxy, kv: KeyValue) -> None:
    js = jetstream_of(kv)
    await js.create_key_value(KeyValueConfig(bucket="ttl", ttl=1.0, limit_marker_ttl=60.0, direct=True))
    async with with_inbox(nats_proxy.url) as (connected, inbox):
        bucket = Bucket(inbox, connected, "ttl")
        await bucket.create("k", b"1")
        await until_expired(js, "KV_ttl")
        for get in (bucket.get, bucket.get_from_leader):
            with pytest.raises(KeyMissing) as missing:
                await get("k")
            assert missing.value.revision == 2, "the revision of the server's marker"
        assert await bucket.get_many(["k"]) == {}
        assert await bucket.get_matching("*") == {}
        assert await bucket.create("k", b"again") == 3
        assert (await bucket.get("k")).value == b"again"


async def until_expired(js: JetStreamContext, stream: str) -> None:
    """Return when the server has replaced the first message by its marker."""
    async with asyncio.timeout(20):
        while (await js.stream_info(stream)).state.last_seq < 2:
            await asyncio.sleep(0.05)


async def test_values_up_to_the_limit_of_the_bucket_are_written(nats_proxy: NatsProxy, kv: KeyValue) -> None:
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


async def test_a_changed_limit_is_read_again_after_the_first_value_over_it(nats_proxy: NatsProxy, kv: KeyValue) -> None:
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
async def test_the_configuration_is_read_again_after_an_outage(
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


async def test_values_up_to_the_max_payload_of_the_server_are_written() -> None:
    async with servers.running("max_payload: 64KB") as server, with_inbox(server.url) as (connected, inbox):
        await create_missing(connected, ["b"])
        bucket = Bucket(inbox, connected, "b")
        largest = await bucket.max_value_bytes()
        assert largest == 64 * 1024 - HEADER_ROOM_BYTES
        assert await bucket.update("k", bytes(largest), await bucket.create("k", bytes(largest))) == 2
        with pytest.raises(ValueTooLarge):
            await bucket.update("k", bytes(largest + 1), 2)
        assert (await bucket.get("k")).value == bytes(largest)
        assert was_never_lost(connected)


async def test_the_limit_of_a_server_that_was_reloaded_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "CONFIG_SECONDS", 0.0)
    monkeypatch.setattr(payload_limit, "FRESH_SECONDS", 0.0)
    async with servers.running("max_payload: 64KB") as server, with_inbox(server.url) as (connected, inbox):
        await create_missing(connected, ["b"])
        bucket = Bucket(inbox, connected, "b")
        for size in (32, 128):
            await server.load(f"max_payload: {size}KB")
            assert await bucket.max_value_bytes() == size * 1024 - HEADER_ROOM_BYTES
            with pytest.raises(ValueTooLarge):
                await bucket.create("large", bytes(size * 1024))
            await bucket.create(f"k{size}", bytes(size * 1024 - HEADER_ROOM_BYTES))
        assert was_never_lost(connected)


async def test_a_bucket_that_was_created_again_has_another_time_of_creation(bucket: Bucket, kv: KeyValue) -> None:
    first = (await bucket.info()).created
    assert first == (await bucket.info()).created
    await jetstream_of(kv).delete_key_value("b")
    await jetstream_of(kv).create_key_value(bucket="b")
    assert (await bucket.info()).created != first


async def test_the_configuration_is_asked_for_again_after_a_time(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await bucket.get_many(["k"])
    assert nats_proxy.published.count("$JS.API.STREAM.INFO.KV_b") == 1
    later = time.monotonic() + buckets.CONFIG_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    await bucket.get_many(["k"])
    assert nats_proxy.published.count("$JS.API.STREAM.INFO.KV_b") == 2


async def test_a_bucket_is_unavailable_in_an_account_without_jetstream() -> None:
    users = "accounts { PLAIN: { users: [ {user: u, password: p} ] } }"
    async with servers.running(users) as server, with_inbox(as_user(server.url, "u:p")) as (connected, inbox):
        with pytest.raises(StoreUnavailable):
            await Bucket(inbox, connected, "b").get("k")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An answer of JetStream that cannot be read is an outage of the store, for every request and every form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from shared.errors import StoreUnavailable
from shared.kv.scan import BucketScan
from shared.nats.inbox import Inbox
from tests.shared.kv.meddling import Meddling
from tests.stack.nats_rules import Planned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import Delivery, NatsProxy

INFO = "$JS.API.STREAM.INFO"
LEADER_GET = "$JS.API.STREAM.MSG.GET"
WRITE = "$KV.b."
DIRECT_GET = "$JS.API.DIRECT.GET.KV_b.$KV.b."

REQUESTS: dict[str, tuple[str, Callable[[Bucket], Awaitable[Any]]]] = {
    "info": (INFO, lambda bucket: bucket.info()),
    "get_from_leader": (LEADER_GET, lambda bucket: bucket.get_from_leader("k")),
    "create": (WRITE, lambda bucket: bucket.create("new", b"2")),
    "update": (WRITE, lambda bucket: bucket.update("k", b"2", 1)),
    "delete": (WRITE, lambda bucket: bucket.delete("k", 1)),
    "rewrite": (WRITE, lambda bucket: bucket.rewrite("k", lambda _: (b"2", None))),
}
ANSWERS = {
    "no JSON": b"no JSON",
    "empty": b"",
    "cut": b'{"type":"io.nats',
    "empty object": b"{}",
    "null": b"null",
    "array": b"[]",
    "other types": b'{"seq":"1","message":1,"config":1,"error":1}',
    "no sequence": b'{"seq":0,"message":{"seq":0},"created":""}',
    "negative sequence": b'{"seq":-1,"message":{"seq":-1,"data":"AA=="}}',
    "no base64": b'{"message":{"seq":1,"data":"?"}}',
    "no UTF-8": b'{"seq":1,"stream":"\xff","message":{"seq":1,"x":"\xff"},"created":"\xff"}',
    "deep": b'{"x":' + b"[" * 100_000,
}


@pytest.mark.parametrize("request_name", REQUESTS)
async def test_an_unreadable_answer_raises_unavailable_and_the_next_one_is_used(
    bucket: Bucket, nats_proxy: NatsProxy, request_name: str
) -> None:
    await bucket.create("k", b"1")
    prefix, ask = REQUESTS[request_name]
    for name, answer in ANSWERS.items():
        nats_proxy.garble_reply(prefix, 1, answer)
        with pytest.raises(StoreUnavailable, match="bucket b: "):
            await ask(bucket)
            pytest.fail(name)
        assert (await bucket.info()).created
        assert await bucket.get_matching("*") is not None


@pytest.mark.parametrize("method", ["get", "find"])
@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: \r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: one\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: -1\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 1_0\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: %s\r\n\r\n" % (b"1" * 5000),
    ],
    ids=["no headers", "no sequence", "empty", "word", "negative", "underscore", "long"],
)
async def test_a_direct_read_without_a_sequence_raises_unavailable(
    bucket: Bucket, nats_proxy: NatsProxy, method: str, headers: bytes
) -> None:
    await bucket.create("k", b"1")

    def change(reply: Delivery) -> Delivery:
        return msgspec.structs.replace(reply, headers=headers)

    nats_proxy.rewrite_reply(DIRECT_GET, 1, change)
    with pytest.raises(StoreUnavailable, match="bucket b: the answer of JetStream cannot be read"):
        await getattr(bucket, method)("k")
    assert (await bucket.get("k")).revision == 1


@pytest.mark.parametrize("answer", [b"no JSON", b"{}", b"[]"])
async def test_an_unreadable_consumer_raises_unavailable(
    bucket: Bucket, nats_connection: Connection, nats_proxy: NatsProxy, answer: bytes
) -> None:
    await bucket.create("k", b"1")
    nats_proxy.garble_reply("$JS.API.CONSUMER.CREATE", 1, answer)
    async with Inbox(nats_connection) as inbox:
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            async with BucketScan(nats_connection, inbox, bucket):
                pass


async def test_a_scanned_value_with_an_unreadable_position_raises_unavailable(
    bucket: Bucket, nats_connection: Connection, nats_proxy: NatsProxy
) -> None:
    await bucket.create("k", b"1")
    nats_proxy.decides = Meddling(b"$KV.b.k", 1, lambda one: [Planned(msgspec.structs.replace(one, reply="other"))])
    async with Inbox(nats_connection) as inbox, BucketScan(nats_connection, inbox, bucket) as scan:
        with pytest.raises(StoreUnavailable, match="a message was lost"):
            async for _ in scan.pages():
                pass

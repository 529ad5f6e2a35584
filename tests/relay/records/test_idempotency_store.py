# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A key is claimed before its mail goes out and settled afterwards, whatever KV does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import nats
import pytest
from msgspec.structs import replace
from nats.js.api import KeyValueConfig

from relay import idempotency
from relay.idempotency import Claim
from relay.records import idempotency_store as claims
from relay.records.idempotency_store import Claims, Held
from shared.errors import KeyMissing, StoreUnavailable
from shared.kv.bucket import Bucket
from shared.nats import inbox as inboxes
from tests.stack import nats_proxy as proxies
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_frames import Answer, Publication
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

KEY = "key"
STORED_UNDER = idempotency.store_key(KEY)


@pytest.fixture
async def jetstream(nats_server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """JetStream, seen past the proxy."""
    async with await nats.connect(nats_server.url) as client:
        yield client.jetstream()


@pytest.fixture
async def bucket(jetstream: JetStreamContext, inbox: Inbox, nats_connection: Connection) -> AsyncIterator[Bucket]:
    """A bucket of this test's own, through the proxy."""
    name = f"idempotency-{uuid4().hex}"
    await jetstream.create_key_value(KeyValueConfig(name, direct=True))
    yield Bucket(inbox, nats_connection, name)
    await jetstream.delete_key_value(name)


@pytest.fixture
async def relay(bucket: Bucket) -> AsyncIterator[Claims]:
    """The claims of a relay."""
    async with Claims(bucket) as opened:
        yield opened


def claim() -> Claim:
    return claims.started("print", email_id=str(uuid4()), group_id="g")


async def made(relay: Claims) -> Held:
    """A key that is ours."""
    held = await relay.make(KEY, claim())
    assert isinstance(held, Held)
    return held


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_the_first_has_the_key_and_the_others_see_how_far_it_has_come(relay: Claims) -> None:
    held = await made(relay)
    assert await relay.make(KEY, claim()) == held.claim
    await relay.settle(held, "sent", deadline=soon())
    assert await relay.make(KEY, claim()) == replace(held.claim, state="sent")
    assert isinstance(await relay.make("other", claim()), Held)


async def test_a_key_that_is_free_again_may_be_claimed_again(relay: Claims) -> None:
    for _ in range(3):
        await relay.settle(await made(relay), None, deadline=soon())
    await relay.settle(await made(relay), "unknown", deadline=soon())
    known = await relay.make(KEY, claim())
    assert isinstance(known, Claim)
    assert known.state == "unknown"


async def test_of_many_at_once_one_has_the_key(relay: Claims) -> None:
    answers = await asyncio.gather(*[relay.make(KEY, claim()) for _ in range(30)])
    [held] = [one for one in answers if isinstance(one, Held)]
    assert [one for one in answers if isinstance(one, Claim)] == [held.claim] * 29


async def test_a_request_with_a_key_costs_two_writes_and_no_read(
    relay: Claims, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    before = len(nats_proxy.published)
    held = await made(relay)
    await relay.settle(held, "sent", deadline=soon())
    assert nats_proxy.published[before:] == [f"$KV.{bucket.name}.{STORED_UNDER}"] * 2
    before = len(nats_proxy.published)
    await relay.make(KEY, claim())
    assert nats_proxy.published[before:] == [
        f"$KV.{bucket.name}.{STORED_UNDER}",
        f"$JS.API.STREAM.MSG.GET.KV_{bucket.name}",
    ]


@pytest.mark.parametrize("fault", [proxies.no_responders(), proxies.js_error(503, 10077, "maximum bytes exceeded")])
async def test_without_the_bucket_nothing_is_claimed_and_the_key_stays_free(
    relay: Claims, bucket: Bucket, nats_proxy: NatsProxy, fault: Callable[[Publication], Answer]
) -> None:
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, fault)
    with pytest.raises(StoreUnavailable):
        await relay.make(KEY, claim())
    await until(lambda: not relay.unsettled)
    await made(relay)


async def test_a_claim_that_was_written_without_an_answer_is_undone(
    relay: Claims, bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
    nats_proxy.lose_reply(f"$KV.{bucket.name}.", 1)
    with pytest.raises(StoreUnavailable):
        await relay.make(KEY, claim())
    await until(lambda: not relay.unsettled)
    await made(relay)


async def test_the_claim_of_somebody_else_is_never_undone(relay: Claims, bucket: Bucket, nats_proxy: NatsProxy) -> None:
    held = await made(relay)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.no_responders())
    with pytest.raises(StoreUnavailable):
        await relay.make(KEY, claim())
    await until(lambda: not relay.unsettled)
    assert await relay.make(KEY, claim()) == held.claim


@pytest.mark.parametrize("code", [10071, 10164])
async def test_a_conflict_without_cause_neither_loses_the_key_nor_the_outcome(
    relay: Claims, bucket: Bucket, nats_proxy: NatsProxy, code: int
) -> None:
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.js_error(400, code, "wrong last sequence"))
    held = await made(relay)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.js_error(400, code, "wrong last sequence"))
    await relay.settle(held, "sent", deadline=soon())
    assert await relay.make(KEY, claim()) == replace(held.claim, state="sent")


@pytest.mark.parametrize("state", ["sent", "unknown", None])
@pytest.mark.parametrize("loss", ["lose_request", "lose_reply"])
async def test_an_outcome_that_kv_does_not_take_at_once_is_stored_later(  # noqa: PLR0913, PLR0917 - two servers and a table
    relay: Claims,
    bucket: Bucket,
    nats_proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    state: idempotency.State | None,
    loss: str,
) -> None:
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(claims, "LEAST_PATIENCE_SECONDS", 0.0)
    held = await made(relay)
    getattr(nats_proxy, loss)(f"$KV.{bucket.name}.", 2)
    await relay.settle(held, state, deadline=soon(0))
    assert relay.unsettled == 1
    await until(lambda: not relay.unsettled)
    known = await relay.make(KEY, claim())
    assert isinstance(known, Held) if state is None else known == replace(held.claim, state=state)


async def test_an_outcome_outlives_the_bucket_that_held_its_claim(
    relay: Claims, bucket: Bucket, jetstream: JetStreamContext
) -> None:
    held = await made(relay)
    await jetstream.delete_key_value(bucket.name)
    await relay.settle(held, "sent", deadline=soon(0))
    assert relay.unsettled == 1
    await jetstream.create_key_value(KeyValueConfig(bucket.name, direct=True))
    await until(lambda: not relay.unsettled)
    assert await relay.make(KEY, claim()) == replace(held.claim, state="sent")


async def test_leaving_stores_what_is_kept_and_names_what_it_cannot(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(claims, "LEAST_PATIENCE_SECONDS", 0.0)
    nats_proxy_faults = proxies.js_error(503, 10077, "maximum bytes exceeded")
    async with Claims(bucket) as relay:
        held = await made(relay)
        nats_proxy.answer(f"$KV.{bucket.name}.", 1, nats_proxy_faults)
        await relay.settle(held, "sent", deadline=soon(0))
    entry = await bucket.get_from_leader(STORED_UNDER)
    assert b'"sent"' in entry.value
    monkeypatch.setattr(claims, "FLUSH_SECONDS", 0.1)
    async with Claims(bucket) as relay:
        other = await relay.make("other", claim())
        assert isinstance(other, Held)
        nats_proxy.answer(f"$KV.{bucket.name}.", 100, nats_proxy_faults)
        await relay.settle(other, "sent", deadline=soon(0))
    lost = [line for line in caplog.records if line.message == "claim.lost"]
    assert [line.__dict__["email_id"] for line in lost] == [other.claim.email_id]


async def test_leaving_that_is_broken_off_names_what_is_not_stored_too(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "LEAST_PATIENCE_SECONDS", 0.0)
    leaving = asyncio.Event()

    async def serve() -> None:
        async with Claims(bucket) as relay:
            held = await made(relay)
            nats_proxy.answer(f"$KV.{bucket.name}.", 100, proxies.no_responders())
            await relay.settle(held, "sent", deadline=soon(0))
            leaving.set()

    serving = asyncio.create_task(serve())
    await leaving.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert [line.message for line in caplog.records if line.levelno == logging.ERROR] == ["claim.lost"]


@pytest.mark.parametrize("value", [b"", b"{", b"null", b"{}", b"\xff", b"[" * 10_000])
async def test_a_key_whose_claim_cannot_be_read_sends_nothing(relay: Claims, bucket: Bucket, value: bytes) -> None:
    await bucket.create(STORED_UNDER, value)
    with pytest.raises(StoreUnavailable, match="corrupt"):
        await relay.make(KEY, claim())


async def test_a_key_that_expired_is_free(
    jetstream: JetStreamContext, inbox: Inbox, nats_connection: Connection
) -> None:
    name = f"idempotency-{uuid4().hex}"
    await jetstream.create_key_value(KeyValueConfig(name, direct=True, ttl=0.3))
    bucket = Bucket(inbox, nats_connection, name)
    async with Claims(bucket) as relay:
        await relay.settle(await made(relay), "sent", deadline=soon())
        async with asyncio.timeout(10):
            while await is_there(bucket):
                await asyncio.sleep(0.05)
        await made(relay)
    await jetstream.delete_key_value(name)


async def is_there(bucket: Bucket) -> bool:
    try:
        await bucket.get_from_leader(STORED_UNDER)
    except KeyMissing:
        return False
    return True

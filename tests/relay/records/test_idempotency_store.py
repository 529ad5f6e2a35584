# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A request takes its key before its email is sent, and settles it afterwards, also while KV fails."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import nats
import pytest
from nats.js.api import KeyValueConfig

from relay import idempotency
from relay.idempotency import Repeat
from relay.records import idempotency_store
from relay.records.idempotency_store import DisabledIdempotencyStore, HeldKey, IdempotencyStore
from shared.contract import SendEmailRequest
from shared.errors import KeyMissing, StoreUnavailable
from shared.kv.bucket import Bucket
from shared.nats import inbox as inboxes
from tests.stack import nats_proxy as proxies
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.js import JetStreamContext

    from relay.idempotency import KeyState
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_frames import Answer, Publication
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

LONGEST_REQUEST = timedelta(seconds=48)
IN_PROGRESS = "request in progress"
UNKNOWN = "delivery outcome unknown"
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
async def store(bucket: Bucket) -> AsyncIterator[IdempotencyStore]:
    """The store of a relay."""
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as opened:
        yield opened


async def begin(store: IdempotencyStore, key: str = KEY) -> HeldKey | Repeat:
    """One more request with this key."""
    request = SendEmailRequest(to="a@example.com", idempotency_key=key)
    begun = await store.begin(request, None, email_id=str(uuid4()), group_id="g")
    assert begun is not None
    return begun


async def held(store: IdempotencyStore, key: str = KEY) -> HeldKey:
    """The key, which is free."""
    begun = await begin(store, key)
    assert isinstance(begun, HeldKey)
    return begun


def repeat_of(first: HeldKey, error: str = "") -> Repeat:
    return Repeat(
        email_id=first.stored.email_id, group_id=first.stored.group_id, sent_at=first.stored.started_at, error=error
    )


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_request_without_a_key_takes_none(store: IdempotencyStore, nats_proxy: NatsProxy) -> None:
    before = len(nats_proxy.published)
    assert await store.begin(SendEmailRequest(to="a@example.com"), {}, email_id="e", group_id="g") is None
    assert len(nats_proxy.published) == before


async def test_the_first_holds_the_key_and_repeats_get_the_answer_of_its_state(store: IdempotencyStore) -> None:
    first = await held(store)
    assert await begin(store) == repeat_of(first, IN_PROGRESS)
    await first.settle("sent", deadline=soon())
    assert await begin(store) == repeat_of(first)
    assert await held(store, "other")


async def test_other_content_under_the_same_key_is_refused(store: IdempotencyStore) -> None:
    first = await held(store)
    other = SendEmailRequest(to="b@example.com", idempotency_key=KEY)
    assert await store.begin(other, None, email_id="e", group_id="g") == repeat_of(first, "idempotency key reused")


async def test_a_freed_key_can_be_taken_again(store: IdempotencyStore) -> None:
    for _ in range(3):
        await (await held(store)).settle(None, deadline=soon())
    last = await held(store)
    await last.settle("unknown", deadline=soon())
    assert await begin(store) == repeat_of(last, UNKNOWN)


async def test_one_of_many_requests_at_once_holds_the_key(store: IdempotencyStore) -> None:
    answers = await asyncio.gather(*[begin(store) for _ in range(30)])
    [first] = [one for one in answers if isinstance(one, HeldKey)]
    assert [one for one in answers if isinstance(one, Repeat)] == [repeat_of(first, IN_PROGRESS)] * 29


async def test_a_request_with_a_key_costs_two_writes_and_no_read(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    before = len(nats_proxy.published)
    await (await held(store)).settle("sent", deadline=soon())
    assert nats_proxy.published[before:] == [f"$KV.{bucket.name}.{STORED_UNDER}"] * 2
    before = len(nats_proxy.published)
    await begin(store)
    assert nats_proxy.published[before:] == [
        f"$KV.{bucket.name}.{STORED_UNDER}",
        f"$JS.API.STREAM.MSG.GET.KV_{bucket.name}",
    ]


@pytest.mark.parametrize("fault", [proxies.no_responders(), proxies.js_error(503, 10077, "maximum bytes exceeded")])
async def test_a_write_that_fails_leaves_the_key_free(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, fault: Callable[[Publication], Answer]
) -> None:
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, fault)
    with pytest.raises(StoreUnavailable):
        await begin(store)
    await until(lambda: not store.unsettled)
    await held(store)


async def test_a_key_that_was_written_without_an_answer_is_freed(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
    nats_proxy.lose_reply(f"$KV.{bucket.name}.", 1)
    with pytest.raises(StoreUnavailable):
        await begin(store)
    await until(lambda: not store.unsettled)
    await held(store)


async def test_a_failed_write_does_not_free_the_key_of_another_request(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy
) -> None:
    first = await held(store)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.no_responders())
    with pytest.raises(StoreUnavailable):
        await begin(store)
    await until(lambda: not store.unsettled)
    assert await begin(store) == repeat_of(first, IN_PROGRESS)


@pytest.mark.parametrize("code", [10071, 10164])
async def test_a_conflict_without_cause_loses_neither_the_key_nor_the_outcome(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, code: int
) -> None:
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.js_error(400, code, "wrong last sequence"))
    first = await held(store)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, proxies.js_error(400, code, "wrong last sequence"))
    await first.settle("sent", deadline=soon())
    assert await begin(store) == repeat_of(first)


@pytest.mark.parametrize("state", ["sent", "unknown", None])
@pytest.mark.parametrize("loss", ["lose_request", "lose_reply"])
async def test_an_outcome_that_kv_does_not_store_at_once_is_stored_later(  # noqa: PLR0913, PLR0917 - two servers and a table
    store: IdempotencyStore,
    bucket: Bucket,
    nats_proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    state: KeyState | None,
    loss: str,
) -> None:
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)
    first = await held(store)
    getattr(nats_proxy, loss)(f"$KV.{bucket.name}.", 2)
    await first.settle(state, deadline=soon(0))
    assert store.unsettled == 1
    await until(lambda: not store.unsettled)
    expected = {"sent": repeat_of(first), "unknown": repeat_of(first, UNKNOWN)}
    again = await begin(store)
    assert isinstance(again, HeldKey) if state is None else again == expected[state]


async def test_an_outcome_is_stored_though_its_bucket_was_deleted_and_created_again(
    store: IdempotencyStore, bucket: Bucket, jetstream: JetStreamContext
) -> None:
    first = await held(store)
    await jetstream.delete_key_value(bucket.name)
    await first.settle("sent", deadline=soon(0))
    assert store.unsettled == 1
    await jetstream.create_key_value(KeyValueConfig(bucket.name, direct=True))
    await until(lambda: not store.unsettled)
    assert await begin(store) == repeat_of(first)


async def test_a_stop_stores_the_missing_outcomes_and_logs_those_it_cannot_store(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)
    fault = proxies.js_error(503, 10077, "maximum bytes exceeded")
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        first = await held(store)
        nats_proxy.answer(f"$KV.{bucket.name}.", 1, fault)
        await first.settle("sent", deadline=soon(0))
    entry = await bucket.get_from_leader(STORED_UNDER)
    assert b'"sent"' in entry.value
    monkeypatch.setattr(idempotency_store, "FLUSH_SECONDS", 0.1)
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        other = await held(store, "other")
        nats_proxy.answer(f"$KV.{bucket.name}.", 100, fault)
        await other.settle("sent", deadline=soon(0))
    lost = [line for line in caplog.records if line.message == "claim.lost"]
    assert [line.__dict__["email_id"] for line in lost] == [other.stored.email_id]


async def test_a_stop_that_is_interrupted_logs_the_outcomes_it_did_not_store(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)
    leaving = asyncio.Event()

    async def serve() -> None:
        async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
            first = await held(store)
            nats_proxy.answer(f"$KV.{bucket.name}.", 100, proxies.no_responders())
            await first.settle("sent", deadline=soon(0))
            leaving.set()

    serving = asyncio.create_task(serve())
    await leaving.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert [line.message for line in caplog.records if line.levelno == logging.ERROR] == ["claim.lost"]


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff"])
async def test_a_key_whose_value_is_corrupt_is_unavailable(
    store: IdempotencyStore, bucket: Bucket, value: bytes
) -> None:
    await bucket.create(STORED_UNDER, value)
    with pytest.raises(StoreUnavailable, match="corrupt"):
        await begin(store)


async def test_an_expired_key_is_free(jetstream: JetStreamContext, inbox: Inbox, nats_connection: Connection) -> None:
    name = f"idempotency-{uuid4().hex}"
    await jetstream.create_key_value(KeyValueConfig(name, direct=True, ttl=0.3))
    bucket = Bucket(inbox, nats_connection, name)
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as store:
        await (await held(store)).settle("sent", deadline=soon())
        async with asyncio.timeout(10):
            while await is_there(bucket):
                await asyncio.sleep(0.05)
        await held(store)
    await jetstream.delete_key_value(name)


async def is_there(bucket: Bucket) -> bool:
    try:
        await bucket.get_from_leader(STORED_UNDER)
    except KeyMissing:
        return False
    return True


async def test_with_sending_disabled_keys_are_checked_and_not_stored() -> None:
    store = DisabledIdempotencyStore()
    for _ in range(2):
        request = SendEmailRequest(to="a@example.com", idempotency_key=KEY)
        await store.begin(request, None, email_id="e", group_id="g")
    with pytest.raises(idempotency.Malformed):
        await store.begin(SendEmailRequest(idempotency_key="x" * 257), None, email_id="e", group_id="g")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A request takes its key before its email is sent, and settles it afterwards, also while KV fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from nats.js.api import KeyValueConfig, RetentionPolicy, SubjectTransform

from relay import idempotency
from relay.idempotency import Repeat
from relay.records import idempotency_store
from relay.records.idempotency_store import DisabledIdempotencyStore, HeldKey, IdempotencyStore
from shared.contract import SendEmailRequest
from shared.errors import KeyMissing, StoreUnavailable
from shared.kv.bucket import Bucket
from shared.nats import inbox as inboxes
from tests.relay.records.keys import (
    IN_PROGRESS,
    KEY,
    LONGEST_REQUEST,
    STORED_UNDER,
    UNKNOWN,
    begin,
    held,
    repeat_of,
    soon,
)
from tests.stack import nats_proxy as proxies
from tests.stack.waiting import until

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from relay.idempotency import KeyState
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_proxy import NatsProxy


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
    await bucket.info()  # asked for twice a minute
    before = len(nats_proxy.published)
    await (await held(store)).settle("sent", deadline=soon())
    assert nats_proxy.published[before:] == [f"$KV.{bucket.name}.{STORED_UNDER}"] * 2
    before = len(nats_proxy.published)
    await begin(store)
    assert nats_proxy.published[before:] == [
        f"$KV.{bucket.name}.{STORED_UNDER}",
        f"$JS.API.STREAM.MSG.GET.KV_{bucket.name}",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"retention": RetentionPolicy.INTEREST},
        {"retention": RetentionPolicy.WORK_QUEUE},
        {"subject_transform": SubjectTransform(src=">", dest="other.>")},
    ],
)
async def test_a_key_is_not_taken_in_a_stream_that_accepts_values_and_loses_them(
    store: IdempotencyStore, bucket: Bucket, jetstream: JetStreamContext, nats_proxy: NatsProxy, change: dict[str, Any]
) -> None:
    await jetstream.delete_stream(bucket.stream_name)
    await jetstream.add_stream(name=bucket.stream_name, subjects=[f"{bucket.subject_prefix}>"], **change)
    with pytest.raises(StoreUnavailable, match=r"idempotency key: bucket .*: (does not keep|stores) its values"):
        await begin(store)
    assert store.unsettled == 0, "nothing is to be undone"
    assert not [subject for subject in nats_proxy.published if subject.startswith("$KV.")]


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
    first = await held(store)
    getattr(nats_proxy, loss)(f"$KV.{bucket.name}.", 2)
    with monkeypatch.context() as hasty:
        hasty.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
        hasty.setattr(idempotency_store, "LEAST_PATIENCE_SECONDS", 0.0)
        await first.settle(state, deadline=soon(0))
        assert store.unsettled == 1
        await until(lambda: not store.unsettled)
    expected = {"sent": repeat_of(first), "unknown": repeat_of(first, UNKNOWN)}
    again = await begin(store)
    assert isinstance(again, HeldKey) if state is None else again == expected[state]


@pytest.mark.parametrize("state", ["sent", "unknown", None])
async def test_an_outcome_is_stored_though_answers_cannot_be_read(
    store: IdempotencyStore, bucket: Bucket, nats_proxy: NatsProxy, state: KeyState | None
) -> None:
    first = await held(store)
    nats_proxy.answer(f"$KV.{bucket.name}.", 1, lambda _: proxies.Answer(b"no JSON"))
    nats_proxy.garble_reply(f"$KV.{bucket.name}.", 2)
    nats_proxy.garble_reply(f"$JS.API.STREAM.MSG.GET.KV_{bucket.name}", 1)
    await first.settle(state, deadline=soon())
    await until(lambda: not store.unsettled)
    expected = {"sent": repeat_of(first), "unknown": repeat_of(first, UNKNOWN)}
    again = await begin(store)
    assert isinstance(again, HeldKey) if state is None else again == expected[state]


@pytest.mark.parametrize("state", ["sent", "unknown", None])
async def test_an_outcome_that_arrives_late_changes_nothing(
    store: IdempotencyStore,
    bucket: Bucket,
    nats_proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    state: KeyState | None,
) -> None:
    first = await held(store)
    nats_proxy.delay_request(f"$KV.{bucket.name}.", 1, 0.4)
    with monkeypatch.context() as hasty:
        hasty.setattr(inboxes, "TIMEOUT_SECONDS", 0.1)
        await first.settle(state, deadline=soon())
    second = await held(store) if state is None else None
    await until(lambda: not nats_proxy.delayed)
    expected = {"sent": repeat_of(first), "unknown": repeat_of(first, UNKNOWN)}
    assert await begin(store) == (repeat_of(second, IN_PROGRESS) if second else expected[str(state)])


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
        async with asyncio.timeout(30):
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

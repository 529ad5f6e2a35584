# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reading many values: all of them come, also if the answer is cut, the server is old or keys change meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest

from shared.errors import KeyMissing, StoreUnavailable
from shared.kv import batch_get
from shared.kv.bucket import SINGLE_READS_AT_ONCE, Bucket
from shared.kv.setup import create_missing
from tests.shared.connections import was_never_lost, with_inbox
from tests.shared.kv.meddling import Meddling
from tests.stack import nats_server as servers
from tests.stack.nats_proxy import Answer
from tests.stack.nats_rules import Planned
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nats.js.kv import KeyValue

    from shared.kv.bucket import Entry
    from tests.stack.nats_proxy import Delivery, NatsProxy
    from tests.stack.nats_server import NatsServer

BATCH = "$JS.API.DIRECT.GET.KV_b"


async def fill(bucket: Bucket, keys: Sequence[str], size: int = 0) -> None:
    """Create keys, a few hundred at a time; the value is the key, padded to `size`."""
    for start in range(0, len(keys), 500):
        await asyncio.gather(*[bucket.create(key, key.encode().ljust(size)) for key in keys[start : start + 500]])


async def values(bucket: Bucket, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of those keys that have one, without the padding."""
    return {key: entry.value.rstrip() for key, entry in (await bucket.get_many(keys)).items()}


def batches_requested(proxy: NatsProxy) -> int:
    """Return how many batches were requested."""
    return proxy.published.count(BATCH)


async def test_of_thousands_of_keys_those_with_a_value_are_found(bucket: Bucket, kv: KeyValue) -> None:
    keys = [f"key.{number}" for number in range(3000)]
    written = [key for number, key in enumerate(keys) if number % 3]
    await fill(bucket, written)
    deleted = written[::10]
    await asyncio.gather(*[kv.delete(key) for key in deleted[:100]], *[kv.purge(key) for key in deleted[100:]])
    left = set(written) - set(deleted)
    found = await bucket.get_many(keys)
    assert {key: entry.value for key, entry in found.items()} == {key: key.encode() for key in left}
    one = found[min(left)]
    assert one == await bucket.get(min(left))


async def test_a_batch_finds_the_same_values_as_single_reads(bucket: Bucket, kv: KeyValue) -> None:
    keys = [f"{number}" for number in range(200)]
    await fill(bucket, keys[::2])
    await asyncio.gather(*[kv.put(key, b"\0" * number) for number, key in enumerate(keys[::3])])
    await asyncio.gather(*[kv.delete(key) for key in keys[::5]])
    single = {}
    for key in keys:
        with contextlib.suppress(KeyMissing):
            single[key] = await bucket.get(key)
    assert await bucket.get_many(keys) == single
    assert len(single) > 100


async def test_for_no_keys_nothing_is_requested(bucket: Bucket, nats_proxy: NatsProxy) -> None:
    assert await bucket.get_many([]) == {}
    assert batches_requested(nats_proxy) == 0


async def test_keys_without_a_value_give_an_empty_result(bucket: Bucket) -> None:
    assert await bucket.get_many(["a", "b"]) == {}
    assert await bucket.get_matching("a.*", "b") == {}


async def test_an_answer_that_is_cut_at_its_size_limit_is_continued(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MAX_BYTES", 100_000)
    keys = [f"k{number}" for number in range(500)]
    await fill(bucket, keys[::2], 5000)
    assert await values(bucket, keys) == {key: key.encode() for key in keys[::2]}
    assert batches_requested(nats_proxy) == 13, "20 values of 5,000 bytes at a time"


async def test_keys_that_change_between_the_parts_of_an_answer_have_their_current_values(
    bucket: Bucket, kv: KeyValue, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MAX_BYTES", 5000)
    keys = [f"k{number}" for number in range(20)]
    await fill(bucket, keys, 1000)
    nats_proxy.delay = 0.1
    reading = asyncio.create_task(values(bucket, keys))
    await until(lambda: batches_requested(nats_proxy) >= 2)
    for key in ("k1", "k18"):
        await kv.put(key, b"new")
    for key in ("k2", "k19"):
        await kv.delete(key)
    changed = {"k1": b"new", "k18": b"new"}
    expected = {key: key.encode() for key in keys if key not in {"k2", "k19"}} | changed
    assert await reading == expected


async def test_all_values_are_found_while_every_key_is_rewritten(
    bucket: Bucket, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MAX_BYTES", 50_000)
    keys = [f"k{number}" for number in range(200)]
    await fill(bucket, keys, 1000)
    done = asyncio.Event()

    async def keep_rewriting(writer: Bucket, offset: int) -> None:
        for number in itertools.count(offset):
            if done.is_set():
                return
            await writer.rewrite(keys[number * 37 % 200], lambda value: (value, None))

    async with with_inbox(nats_server.url) as (connected, inbox), asyncio.TaskGroup() as group:
        for offset in range(0, 100, 10):
            group.create_task(keep_rewriting(Bucket(inbox, connected, "b"), offset))
        for _ in range(30):
            assert await values(bucket, keys) == {key: key.encode() for key in keys}
        done.set()


@pytest.mark.parametrize("count", [1024, 1025])
async def test_a_wildcard_with_more_matches_than_a_batch_holds_returns_none(bucket: Bucket, count: int) -> None:
    keys = [f"=.{number}.group" for number in range(count)]
    await fill(bucket, keys)
    await bucket.create("group", b"the first segment")
    await bucket.create("=.1.other", b"not asked for")
    found = await bucket.get_matching("=.*.group")
    assert (None if found is None else set(found)) == (set(keys) if count == 1024 else None)
    assert set(await bucket.get_matching("group", "=.*.other") or ()) == {"group", "=.1.other"}


@pytest.mark.parametrize(
    "answer",
    [
        b"NATS/1.0 408 Bad Request\r\n\r\n",
        b"NATS/1.0 413 Too Many Results\r\n\r\n",
        b"NATS/1.0 500 some error\r\n\r\n",
    ],
    ids=["too old", "too many", "failed"],
)
async def test_each_key_is_read_alone_if_the_server_cannot_answer_a_batch(
    bucket: Bucket, nats_proxy: NatsProxy, answer: bytes
) -> None:
    await fill(bucket, ["a", "b"])
    nats_proxy.answer(BATCH, 1, lambda _: Answer(headers=answer))
    assert await values(bucket, ["a", "b", "c"]) == {"a": b"a", "b": b"b"}
    nats_proxy.answer(BATCH, 1, lambda _: Answer(headers=answer))
    assert await bucket.get_matching("*") is None


async def test_an_incomplete_answer_is_not_used(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MAX_BYTES", 5000)
    keys = [f"k{number}" for number in range(20)]
    await fill(bucket, keys, 1000)
    nats_proxy.rewrite(BATCH, 1, lambda publication: publication)
    nats_proxy.answer(BATCH, 1, lambda _: Answer(headers=b"NATS/1.0 404 Message Not Found\r\n\r\n"))
    assert await values(bucket, keys) == {key: key.encode() for key in keys}


async def test_keys_that_do_not_fit_into_one_request_are_read_alone() -> None:
    async with servers.running("max_payload: 8KB") as server, with_inbox(server.url) as (connected, inbox):
        await create_missing(connected, ["b"])
        bucket = Bucket(inbox, connected, "b")
        keys = [f"{number:0>50}" for number in range(300)]
        await fill(bucket, keys)
        assert await values(bucket, keys) == {key: key.encode() for key in keys}


async def test_after_a_batch_without_an_answer_in_time_keys_are_read_alone_for_a_while(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "SINGLY_SECONDS", 60.0)
    await fill(bucket, ["a", "b"])
    with monkeypatch.context() as patch:
        patch.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 1.0)
        nats_proxy.lose_request(BATCH, 1)
        assert await values(bucket, ["a", "b", "c"]) == {"a": b"a", "b": b"b"}
    assert await values(bucket, ["a", "b"]) == {"a": b"a", "b": b"b"}
    assert await bucket.get_matching("*") is None
    assert batches_requested(nats_proxy) == 1


async def test_batches_are_tried_again_later(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "SINGLY_SECONDS", 0.0)
    await fill(bucket, ["a"])
    with monkeypatch.context() as patch:
        patch.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 1.0)
        nats_proxy.lose_request(BATCH, 1)
        await bucket.get_many(["a"])
    assert await values(bucket, ["a"]) == {"a": b"a"}
    assert batches_requested(nats_proxy) == 2


async def test_a_batch_and_single_reads_without_an_answer_raise_unavailable(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 0.1)
    nats_proxy.lose_request("$JS.API.", 9)
    with pytest.raises(StoreUnavailable):
        await bucket.get_many(["a"])


async def test_many_batches_at_once_do_not_make_the_connection_a_slow_consumer(
    bucket: Bucket, nats_server: NatsServer
) -> None:
    keys = [f"k{number}" for number in range(1000)]
    await fill(bucket, keys, 4000)
    async with with_inbox(nats_server.url) as (connected, inbox):
        reader = Bucket(inbox, connected, "b")
        results = await asyncio.gather(*[reader.get_many(keys) for _ in range(40)])
        assert {len(result) for result in results} == {1000}
        assert was_never_lost(connected)
    assert "Slow Consumer" not in nats_server.log


async def test_the_limit_of_single_reads_at_once_holds_for_all_callers_together(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{number}" for number in range(100)]
    await fill(bucket, keys)
    get, under_way, most = bucket.get, 0, 0

    async def counted(key: str) -> Entry:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await get(key)
        finally:
            under_way -= 1

    monkeypatch.setattr(bucket, "get", counted)
    nats_proxy.answer(BATCH, 3, lambda _: Answer(headers=b"NATS/1.0 408 Bad Request\r\n\r\n"))
    results = await asyncio.gather(*[bucket.get_many(keys) for _ in range(3)])
    assert [len(result) for result in results] == [100, 100, 100]
    assert most == SINGLE_READS_AT_ONCE


PLANS: dict[str, Callable[[Delivery], list[Planned]]] = {
    "lost": lambda _: [],
    "late": lambda delivery: [Planned(delivery, 0.2)],
    "repeated": lambda delivery: [Planned(delivery)] * 2,
    "without headers": lambda delivery: [Planned(msgspec.structs.replace(delivery, headers=b""))],
    "another number": lambda delivery: [
        Planned(msgspec.structs.replace(delivery, headers=delivery.headers.replace(b"Sequence: ", b"Sequence: x")))
    ],
    "without a subject": lambda delivery: [
        Planned(msgspec.structs.replace(delivery, headers=delivery.headers.replace(b"Nats-Subject", b"Other")))
    ],
}
each_place = pytest.mark.parametrize("key", ["k0", "k3", "k9"], ids=["first", "middle", "last"])
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@each_place
@each_plan
async def test_an_answer_with_a_message_missing_or_unreadable_is_read_again(
    bucket: Bucket, nats_proxy: NatsProxy, key: str, plan: Callable[[Delivery], list[Planned]]
) -> None:
    keys = [f"k{number}" for number in range(10)]
    await fill(bucket, keys)
    nats_proxy.decides = meddling = Meddling(b"$KV.b.%s\r" % key.encode(), batch_get.TRIES - 1, plan)
    assert await values(bucket, keys) == {one: one.encode() for one in keys}
    assert meddling.met == batch_get.TRIES - 1


@each_place
async def test_messages_that_are_missing_each_time_raise_unavailable(
    bucket: Bucket, nats_proxy: NatsProxy, key: str
) -> None:
    keys = [f"k{number}" for number in range(10)]
    await fill(bucket, keys)
    nats_proxy.decides = Meddling(b"$KV.b.%s\r" % key.encode(), batch_get.TRIES, PLANS["lost"])
    with pytest.raises(StoreUnavailable, match="bucket b: the answer of JetStream cannot be read"):
        await bucket.get_many(keys)
    assert await values(bucket, keys) == {one: one.encode() for one in keys}


async def test_a_message_missing_in_a_later_part_of_a_cut_answer_is_noticed(
    bucket: Bucket, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MAX_BYTES", 5000)
    keys = [f"k{number:0>2}" for number in range(20)]
    await fill(bucket, keys, 1000)
    for key in keys:
        nats_proxy.decides = meddling = Meddling(b"$KV.b.%s\r" % key.encode(), 1, PLANS["lost"])
        assert await values(bucket, keys) == {one: one.encode() for one in keys}
        assert meddling.met == 1


@pytest.mark.parametrize("name", [b"Nats-Num-Pending", b"Nats-Last-Sequence", b"Nats-UpTo-Sequence"])
@pytest.mark.parametrize("other", [b"Other", b"%s: x\r\nOther"], ids=["missing", "not a number"])
async def test_an_end_of_a_batch_that_cannot_be_read_is_read_again(
    bucket: Bucket, nats_proxy: NatsProxy, name: bytes, other: bytes
) -> None:
    await fill(bucket, ["a", "b"])

    def changed(delivery: Delivery) -> list[Planned]:
        to = other % name if b"%" in other else other
        return [Planned(msgspec.structs.replace(delivery, headers=delivery.headers.replace(name, to)))]

    nats_proxy.decides = Meddling(b" 204 EOB", 1, changed)
    assert await values(bucket, ["a", "b"]) == {"a": b"a", "b": b"b"}


async def test_deletions_between_the_parts_of_an_answer_are_not_missing_messages(
    bucket: Bucket, kv: KeyValue, nats_proxy: NatsProxy
) -> None:
    keys = [f"k{number}" for number in range(50)]
    await fill(bucket, keys)
    await asyncio.gather(*[kv.purge(key) for key in keys[::3]], *[kv.put(key, key.encode()) for key in keys[1::3]])
    asked = batches_requested(nats_proxy)
    assert len(await bucket.get_many(keys)) == 50 - len(keys[::3])
    assert batches_requested(nats_proxy) == asked + 1

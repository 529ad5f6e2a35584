# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Appends to group indexes in a real bucket, also by several writers at once."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from shared import group_index
from shared import index_writer as index_writers
from shared.errors import StoreUnavailable, ValueTooLarge
from shared.kv import bucket as kv_bucket
from tests.relay.records.appends import another_writer, append_all, full, new_ids, writes

if TYPE_CHECKING:
    from shared.index_writer import IndexWriter
    from tests.relay.kv import Buckets
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer


# Appending


async def test_the_first_id_creates_the_index_in_the_layout_of_the_go_service(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    [one, two] = new_ids(2)
    await index_writer.append("g", one)
    assert await buckets.segment("g", 0) == json.dumps([one]).encode()
    await index_writer.append("g", two)
    assert json.loads(await buckets.segment("g", 0)) == [one, two]
    assert writes(nats_proxy, buckets) == 2


async def test_two_appends_at_once_keep_both_ids(index_writer: IndexWriter, buckets: Buckets) -> None:
    ids = new_ids(2)
    await append_all(index_writer, "g", ids)
    assert await buckets.ids("g") == ids


async def test_waiting_appends_are_written_together_in_order(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(200)
    await append_all(index_writer, "g", ids)
    assert await buckets.ids("g") == ids
    assert writes(nats_proxy, buckets) <= 3


async def test_an_index_of_the_go_service_is_continued(index_writer: IndexWriter, buckets: Buckets) -> None:
    [old, new] = new_ids(2)
    await buckets.put_segment("g", 0, f'[ "{old}" ]\n'.encode())
    await index_writer.append("g", new)
    assert await buckets.ids("g") == [old, new]


@pytest.mark.parametrize("empty", [b"[]", b"null", b" [ ] ", b""])
async def test_an_empty_index_is_continued(index_writer: IndexWriter, buckets: Buckets, empty: bytes) -> None:
    await buckets.put_segment("g", 0, empty)
    [email_id] = new_ids(1)
    await index_writer.append("g", email_id)
    assert [one for number in (0, 1) for one in json.loads(await buckets.segment("g", number) or b"[]")] == [email_id]


@pytest.mark.usefixtures("short_timeout")
async def test_groups_do_not_wait_for_each_other(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    [slow, *ids] = new_ids(11)
    nats_proxy.lose_request(f"$KV.{buckets.group_index_name}.slow", 1)
    stalled = asyncio.create_task(index_writer.append("slow", slow))
    await asyncio.gather(*(index_writer.append(f"g{number}", one) for number, one in enumerate(ids)))
    assert not stalled.done()
    with pytest.raises(StoreUnavailable):
        await stalled
    assert [await buckets.ids(f"g{number}") for number in range(10)] == [[one] for one in ids]


async def test_group_ids_that_are_not_legal_keys_are_escaped_and_cost_one_write(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    groups = ["a..b", ".", "..", ".a", "a.", "*", ">", "a.>", "a b", "=", "=.1.g", "ü", "a/b", "%", "\t", "x" * 255]
    ids = new_ids(len(groups))
    await asyncio.gather(*map(index_writer.append, groups, ids))
    assert [await buckets.ids(group) for group in groups] == [[one] for one in ids]
    assert writes(nats_proxy, buckets) == len(groups)


async def test_a_group_that_is_being_written_is_not_evicted(
    index_writer: IndexWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writers, "MAX_CACHED_GROUPS", 2)
    ids = {group: new_ids(20) for group in "abcdefgh"}
    await asyncio.gather(*(append_all(index_writer, group, some) for group, some in ids.items()))
    await asyncio.gather(*(append_all(index_writer, group, new_ids(1)) for group in "abc"))
    for group, some in ids.items():
        assert (await buckets.ids(group))[:20] == some


# Rolling over


async def test_the_first_segment_holds_10000_ids(index_writer: IndexWriter, buckets: Buckets) -> None:
    old, [last, further] = full(0)[1:], new_ids(2)
    await buckets.put_segment("g", 0, group_index.encode(old))
    await index_writer.append("g", last)
    await index_writer.append("g", further)
    assert len(json.loads(await buckets.segment("g", 0))) == 10_000
    assert json.loads(await buckets.segment("g", 1)) == [further]
    assert await buckets.ids("g") == [*old, last, further]


async def test_later_segments_hold_500_ids(index_writer: IndexWriter, buckets: Buckets) -> None:
    first, second, new = full(0), full(1)[1:], new_ids(2)
    await buckets.put_segment("g", 0, group_index.encode(first))
    await buckets.put_segment("g", 1, group_index.encode(second))
    for one in new:
        await index_writer.append("g", one)
    assert len(json.loads(await buckets.segment("g", 1))) == 500
    assert await buckets.ids("g") == [*first, *second, *new]


async def test_one_write_may_fill_several_segments(index_writer: IndexWriter, buckets: Buckets) -> None:
    first, new = full(0)[:-3], new_ids(1200)
    await buckets.put_segment("g", 0, group_index.encode(first))
    await append_all(index_writer, "g", new)
    assert await buckets.ids("g") == [*first, *new]
    assert [len(json.loads(await buckets.segment("g", number))) for number in range(4)] == [10_000, 500, 500, 197]


async def test_the_last_segment_of_a_large_group_is_found_in_few_steps(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writers, "CONFIRMED_SECONDS", 60.0)
    for number in range(41):
        await buckets.put_segment("g", number, group_index.encode(full(number)))
    [new, newer] = new_ids(2)
    await index_writer.append("g", new)
    assert json.loads(await buckets.segment("g", 41)) == [new]
    assert len(nats_proxy.published) < 24
    already = len(nats_proxy.published)
    await index_writer.append("g", newer)
    assert len(nats_proxy.published) == already + 1, "the next append costs one write"


@pytest.mark.parametrize("segments", [3, 60])
async def test_a_small_bucket_rolls_over_earlier_and_other_writers_continue_it(
    nats_server: NatsServer, index_writer: IndexWriter, buckets: Buckets, segments: int
) -> None:
    await buckets.delete()
    await buckets.make(max_value_size=512)
    ids = new_ids(6 * segments)
    await append_all(index_writer, "g", ids)
    assert await buckets.ids("g") == ids
    assert await buckets.segment("g", segments - 1)
    assert not await buckets.segment("g", segments)
    late = new_ids(8)
    async with another_writer(nats_server, buckets) as another, asyncio.timeout(20):
        await append_all(another, "g", late)
    assert await buckets.ids("g") == [*ids, *late]


async def test_after_a_lower_limit_the_next_ids_go_into_further_segments(
    index_writer: IndexWriter, buckets: Buckets
) -> None:
    ids = new_ids(30)
    await append_all(index_writer, "g", ids[:20])
    await buckets.set_limit(512)
    await append_all(index_writer, "g", ids[20:])
    assert await buckets.ids("g") == ids


async def test_after_the_limit_is_lifted_the_next_ids_go_into_the_last_segment(
    nats_server: NatsServer, buckets: Buckets
) -> None:
    await buckets.delete()
    await buckets.make(max_value_size=512)
    ids = new_ids(18)
    async with another_writer(nats_server, buckets) as writer:
        await append_all(writer, "g", ids[:15])
    await buckets.set_limit(-1)
    async with another_writer(nats_server, buckets) as writer:
        for one in ids[15:]:
            await writer.append("g", one)
    assert await buckets.ids("g") == ids


@pytest.mark.parametrize("already", [3, 6], ids=["after a conflict", "without a conflict"])
async def test_after_the_limit_is_lifted_a_segment_that_others_have_left_gets_no_more_ids(
    nats_server: NatsServer,
    index_writer: IndexWriter,
    buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
    already: int,
) -> None:
    monkeypatch.setattr(kv_bucket, "CONFIG_SECONDS", 0.0)
    await buckets.delete()
    await buckets.make(max_value_size=512)
    ids = new_ids(10)
    await append_all(index_writer, "g", ids[:already])
    async with another_writer(nats_server, buckets) as another:
        await append_all(another, "g", ids[already:8])
    assert len(json.loads(await buckets.segment("g", 0))) == 6
    await buckets.set_limit(-1)
    await append_all(index_writer, "g", ids[8:])
    assert await buckets.ids("g") == ids


async def test_the_last_of_many_segments_that_are_no_longer_full_is_found_in_few_steps(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(41)
    for number, one in enumerate(ids[:40]):
        await buckets.put_segment("g", number, group_index.encode([one]))
    await index_writer.append("g", ids[40])
    assert await buckets.ids("g") == ids
    assert json.loads(await buckets.segment("g", 39)) == ids[39:]
    assert len(nats_proxy.published) < 24


async def test_appends_to_a_group_that_was_just_written_cost_one_write_each(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writers, "CONFIRMED_SECONDS", 60.0)
    [first, *ids] = new_ids(11)
    await index_writer.append("g", first)
    before = len(nats_proxy.published)
    for one in ids:
        await index_writer.append("g", one)
    assert nats_proxy.published[before:] == [f"$KV.{buckets.group_index_name}.g"] * 10


async def test_a_bucket_too_small_for_one_id_is_not_reported_as_unavailable(
    index_writer: IndexWriter, buckets: Buckets
) -> None:
    await buckets.delete()
    await buckets.make(max_value_size=280)
    with pytest.raises(ValueTooLarge):
        await index_writer.append("g", new_ids(1)[0])


# Several writers


async def test_several_writers_lose_no_id_and_write_none_twice(nats_server: NatsServer, buckets: Buckets) -> None:
    ids = [new_ids(60) for _ in range(4)]
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(another_writer(nats_server, buckets)) for _ in ids]

        async def write(writer: IndexWriter, some: list[str]) -> None:
            for start in range(0, len(some), 6):
                await append_all(writer, "g", some[start : start + 6])

        await asyncio.gather(*map(write, writers, ids))
    found = await buckets.ids("g")
    assert sorted(found) == sorted(one for some in ids for one in some)
    for some in ids:
        assert [one for one in found if one in some] == some, "each writer's own order is kept"


async def test_writers_that_roll_over_at_once_agree_on_the_next_segment(
    nats_server: NatsServer, buckets: Buckets
) -> None:
    first, ids = full(0)[:-5], [new_ids(400) for _ in range(3)]
    await buckets.put_segment("g", 0, group_index.encode(first))
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(another_writer(nats_server, buckets)) for _ in ids]
        await asyncio.gather(*(append_all(writer, "g", some) for writer, some in zip(writers, ids, strict=True)))
    found = await buckets.ids("g")
    assert found[: len(first)] == first
    assert sorted(found[len(first) :]) == sorted(one for some in ids for one in some)


async def test_ids_that_another_writer_adds_are_kept(
    nats_server: NatsServer, index_writer: IndexWriter, buckets: Buckets
) -> None:
    ids = new_ids(6)
    async with another_writer(nats_server, buckets) as another:
        for mine, theirs in zip(ids[::2], ids[1::2], strict=True):
            await index_writer.append("g", mine)
            await another.append("g", theirs)
    assert await buckets.ids("g") == ids


async def test_a_deleted_index_is_created_again(index_writer: IndexWriter, buckets: Buckets) -> None:
    for email_id in new_ids(3):
        await index_writer.append("g", email_id)
        assert await buckets.ids("g") == [email_id]
        await buckets.delete_segment("g", 0)


async def test_a_deleted_index_of_several_segments_begins_again_with_the_first(
    index_writer: IndexWriter, buckets: Buckets
) -> None:
    await buckets.put_segment("g", 0, group_index.encode(full(0)))
    await buckets.put_segment("g", 1, group_index.encode(full(1)))
    [old, new] = new_ids(2)
    await index_writer.append("g", old)
    for number in range(3):
        await buckets.delete_segment("g", number)
    await index_writer.append("g", new)
    assert await buckets.ids("g") == [new]


@pytest.mark.parametrize("emptied", [(0,), (0, 1, 2), (1, 2), (3,), (0, 1, 2, 3)])
async def test_after_retention_emptied_segments_new_ids_come_behind_the_others(
    index_writer: IndexWriter, buckets: Buckets, emptied: tuple[int, ...]
) -> None:
    old = [full(0), full(1), full(2), new_ids(2)]
    for number in range(4):
        await buckets.put_segment("g", number, group_index.encode([] if number in emptied else old[number]))
    [new] = new_ids(1)
    await index_writer.append("g", new)
    left = [one for number in range(4) if number not in emptied for one in old[number]]
    assert await buckets.ids("g") == [*left, new]
    assert json.loads(await buckets.segment("g", 3))[-1] == new


async def test_a_tail_that_retention_rewrote_or_emptied_meanwhile_loses_no_append(
    index_writer: IndexWriter, buckets: Buckets
) -> None:
    [one, two, three, four, five] = new_ids(5)
    for email_id in (one, two):
        await index_writer.append("g", email_id)
    await buckets.put_segment("g", 0, group_index.encode([two]))
    await index_writer.append("g", three)
    assert await buckets.ids("g") == [two, three]
    await buckets.put_segment("g", 0, b"[]")
    await index_writer.append("g", four)
    assert await buckets.ids("g") == [four]
    await buckets.delete_segment("g", 0)
    await index_writer.append("g", five)
    assert await buckets.ids("g") == [five]


@pytest.mark.parametrize("corrupt", [b"{", b"[1, 2]", b'["\xff"]', b"[" * 100_000])
async def test_a_corrupt_segment_stays_unchanged_and_the_next_segment_gets_the_ids(
    index_writer: IndexWriter, buckets: Buckets, corrupt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await buckets.put_segment("g", 0, corrupt)
    ids = new_ids(3)
    for one in ids:
        await index_writer.append("g", one)
    assert await buckets.segment("g", 0) == corrupt
    assert json.loads(await buckets.segment("g", 1)) == ids
    assert "group_index.corrupt" in caplog.messages

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Appends to group indexes in a real bucket, with other writers at work, through a proxy that makes faults."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from relay.records import index_writer as index_writers
from relay.records.index_writer import IndexWriter
from shared import group_index
from shared.errors import StoreUnavailable, ValueTooLarge
from shared.kv import bucket
from shared.nats import connection
from shared.nats import inbox as inboxes
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack.nats_proxy import js_error, no_responders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.relay.kv import Buckets
    from tests.stack.nats_proxy import Answer, NatsProxy, Publication
    from tests.stack.nats_server import NatsServer

WRONG_LAST_SEQUENCE = (10071, 10164)
CONFLICT = js_error(400, 10071, "wrong last sequence: 1")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lost reply only for a short time."""
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.4)


@asynccontextmanager
async def another_writer(nats_server: NatsServer, buckets: Buckets) -> AsyncIterator[IndexWriter]:
    """The writer of another relay, with a connection of its own."""
    async with (
        connection.opened(ProcessSettings(nats_url=nats_server.url), "another") as opened,
        Inbox(opened) as inbox,
    ):
        yield IndexWriter(buckets.group_index(inbox, opened))


def new_ids(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


def full(segment: int) -> list[str]:
    """As many ids as a segment holds."""
    return new_ids(group_index.capacity(segment))


async def append_all(writer: IndexWriter, group_id: str, ids: list[str]) -> None:
    """Append at once."""
    await asyncio.gather(*(writer.append(group_id, one) for one in ids))


async def append_until_done(writer: IndexWriter, group_id: str, email_id: str) -> None:
    """Append as the record writer does."""
    again = False
    while True:
        try:
            await writer.append(group_id, email_id, again=again)
        except StoreUnavailable:
            again = True
        else:
            return


def writes(proxy: NatsProxy, buckets: Buckets) -> int:
    """How often a write of a segment was tried."""
    return sum(subject.startswith(f"$KV.{buckets.group_index_name}.") for subject in proxy.published)


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
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
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
    async with another_writer(nats_server, buckets) as another, asyncio.timeout(3):
        await append_all(another, "g", late)
    assert await buckets.ids("g") == [*ids, *late]


async def test_after_a_lower_limit_the_next_ids_go_into_further_segments(
    index_writer: IndexWriter, buckets: Buckets
) -> None:
    ids = new_ids(30)
    await append_all(index_writer, "g", ids[:20])
    await buckets.lower_limit(512)
    await append_all(index_writer, "g", ids[20:])
    assert await buckets.ids("g") == ids


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


# Faults of the server


@pytest.mark.parametrize("err_code", WRONG_LAST_SEQUENCE)
@pytest.mark.parametrize("times", [1, 3])
async def test_conflicts_without_cause_are_retried(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy, err_code: int, times: int
) -> None:
    [one, two] = new_ids(2)
    for email_id in (one, two):
        nats_proxy.answer(f"$KV.{buckets.group_index_name}.", times, js_error(400, err_code, "wrong last sequence: 0"))
        await index_writer.append("g", email_id)
    assert await buckets.ids("g") == [one, two]
    assert writes(nats_proxy, buckets) == 2 * (times + 1)


async def test_endless_conflicts_end_in_an_error(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "CONFLICT_PATIENCE_SECONDS", 0.2)
    nats_proxy.answer(f"$KV.{buckets.group_index_name}.", 1000, CONFLICT)
    with pytest.raises(StoreUnavailable, match="changes faster"):
        await index_writer.append("g", new_ids(1)[0])
    assert writes(nats_proxy, buckets) < 100, "with pauses"


async def test_two_writes_without_responders_fail_and_the_third_succeeds(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    nats_proxy.answer(f"$KV.{buckets.group_index_name}.", 2, no_responders())
    [email_id] = new_ids(1)
    for again in (False, True):
        with pytest.raises(StoreUnavailable, match="no responders"):
            await index_writer.append("g", email_id, again=again)
    await index_writer.append("g", email_id, again=True)
    assert await buckets.ids("g") == [email_id]


async def test_after_a_lost_reply_each_id_is_there_once(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(4)
    await index_writer.append("g", ids[0])
    nats_proxy.lose_reply(f"$KV.{buckets.group_index_name}.", 1)
    with pytest.raises(StoreUnavailable):
        await index_writer.append("g", ids[1])
    assert await buckets.ids("g") == ids[:2], "it was written"
    await index_writer.append("g", ids[2])
    await asyncio.gather(
        index_writer.append("g", ids[1], again=True), index_writer.append("g", ids[3]), return_exceptions=False
    )
    assert sorted(await buckets.ids("g")) == sorted(ids)


async def test_after_a_lost_reply_and_a_roll_over_each_id_is_there_once(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    first, [known, uncertain, further] = full(0)[:-2], new_ids(3)
    await buckets.put_segment("g", 0, group_index.encode(first))
    await index_writer.append("g", known)
    nats_proxy.lose_reply(f"$KV.{buckets.group_index_name}.", 1)
    with pytest.raises(StoreUnavailable):
        await index_writer.append("g", uncertain)
    await index_writer.append("g", further)
    await index_writer.append("g", uncertain, again=True)
    assert await buckets.ids("g") == [*first, known, uncertain, further]


async def test_a_lost_reply_fails_all_ids_of_the_write_and_each_can_be_appended_again(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(20)
    nats_proxy.lose_reply(f"$KV.{buckets.group_index_name}.", 2)
    await asyncio.gather(*(append_until_done(index_writer, "g", one) for one in ids))
    assert sorted(await buckets.ids("g")) == sorted(ids)


async def test_a_write_that_arrives_late_is_not_repeated(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(3)
    await index_writer.append("g", ids[0])
    nats_proxy.freeze()
    with pytest.raises(StoreUnavailable):
        await index_writer.append("g", ids[1])
    nats_proxy.thaw()
    await asyncio.gather(index_writer.append("g", ids[1], again=True), index_writer.append("g", ids[2]))
    assert sorted(await buckets.ids("g")) == sorted(ids)


async def test_a_bucket_that_is_deleted_and_created_again_is_used(index_writer: IndexWriter, buckets: Buckets) -> None:
    ids = new_ids(4)
    await index_writer.append("g", ids[0])
    await buckets.delete()
    with pytest.raises(StoreUnavailable):
        await index_writer.append("g", ids[1])
    await buckets.make()
    await index_writer.append("g", ids[1], again=True)
    await index_writer.append("g", ids[2])
    assert await buckets.ids("g") == ids[1:3]
    await buckets.delete()
    await buckets.make()
    await index_writer.append("g", ids[3])
    assert await buckets.ids("g") == ids[3:], "also if no append failed in between"


async def test_a_lost_connection_ends_an_append_with_an_error(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    nats_proxy.lose_request(f"$KV.{buckets.group_index_name}.", 1)
    [email_id] = new_ids(1)
    task = asyncio.create_task(index_writer.append("g", email_id))
    while not writes(nats_proxy, buckets):
        await asyncio.sleep(0.001)
    nats_proxy.drop_link()
    with pytest.raises(StoreUnavailable, match="disconnected"):
        await task


async def test_a_cancelled_append_does_not_affect_the_others(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(10)
    nats_proxy.lose_request(f"$KV.{buckets.group_index_name}.", 1)
    tasks = [asyncio.create_task(index_writer.append("g", one)) for one in ids]
    while not writes(nats_proxy, buckets):
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [number in {0, 5} for number in range(10)]
    assert [one for one in await buckets.ids("g") if one not in {ids[0], ids[5]}] == [*ids[1:5], *ids[6:]]


@pytest.mark.parametrize("seed", range(3))
async def test_with_random_faults_every_id_is_there_once(
    nats_server: NatsServer, index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule of faults
    first, mine, theirs = full(0)[:-30], new_ids(60), new_ids(60)
    await buckets.put_segment("g", 0, group_index.encode(first))
    prefix = f"$KV.{buckets.group_index_name}."
    with_replicas = js_error(400, 10164, "wrong last sequence")
    lies: list[Callable[[Publication], Answer]] = [CONFLICT, with_replicas, no_responders()]

    async def write(writer: IndexWriter, ids: list[str]) -> None:
        for start in range(0, len(ids), 4):
            await asyncio.gather(*(append_until_done(writer, "g", one) for one in ids[start : start + 4]))

    async def disturb() -> None:
        for _ in range(8):
            await asyncio.sleep(chance.uniform(0, 0.1))
            if chance.random() < 0.5:
                nats_proxy.lose_reply(prefix, 1)
            else:
                nats_proxy.answer(prefix, 1, chance.choice(lies))

    async with another_writer(nats_server, buckets) as another, asyncio.timeout(15):
        await asyncio.gather(write(index_writer, mine), write(another, theirs), disturb())
    found = await buckets.ids("g")
    assert found[: len(first)] == first
    assert sorted(found[len(first) :]) == sorted([*mine, *theirs])

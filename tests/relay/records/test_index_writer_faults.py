# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Appends to group indexes through a proxy that makes faults."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from shared import group_index
from shared import index_writer as index_writers
from shared.errors import StoreUnavailable
from shared.kv import bucket
from tests.relay.records.appends import (
    CONFLICT,
    WRONG_LAST_SEQUENCE,
    another_writer,
    append_until_done,
    full,
    new_ids,
    writes,
)
from tests.stack.nats_proxy import js_error, no_responders
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.index_writer import IndexWriter
    from tests.relay.kv import Buckets
    from tests.stack.nats_proxy import Answer, NatsProxy, Publication
    from tests.stack.nats_server import NatsServer

pytestmark = pytest.mark.usefixtures("short_timeout")


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
    with pytest.raises(StoreUnavailable, match="was changed at the same time, at each try"):
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


async def test_a_bucket_that_is_created_again_and_reaches_the_same_revision_keeps_its_ids(
    nats_server: NatsServer, index_writer: IndexWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writers, "CONFIRMED_SECONDS", 0.0)
    [old, theirs, mine] = new_ids(3)
    await index_writer.append("g", old)
    await buckets.delete()
    await buckets.make()
    async with another_writer(nats_server, buckets) as another:
        await another.append("g", theirs)
    await index_writer.append("g", mine)
    assert await buckets.ids("g") == [theirs, mine]


async def test_a_revision_that_a_new_bucket_cannot_have_reached_is_trusted_without_a_read(
    index_writer: IndexWriter, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writers, "CONFIRMED_SECONDS", 0.0)
    monkeypatch.setattr(index_writers, "MAX_WRITES_PER_SECOND", 0)
    [one, two] = new_ids(2)
    await index_writer.append("g", one)
    before = len(nats_proxy.published)
    await index_writer.append("g", two)
    assert len(nats_proxy.published) == before + 1


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


@pytest.mark.parametrize("when", ["before it begins", "while it writes"])
async def test_the_cancellation_of_the_task_that_writes_releases_the_group(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy, when: str
) -> None:
    [first, *ids] = new_ids(6)
    nats_proxy.lose_request(f"$KV.{buckets.group_index_name}.", 2)
    begun = asyncio.create_task(index_writer.append("g", first))
    waiting = [asyncio.create_task(append_until_done(index_writer, "g", one)) for one in ids[:3]]
    await until(lambda: writes(nats_proxy, buckets) == 1)
    begun.cancel()
    [writer] = await until(running_writes)
    if when == "while it writes":
        await until(lambda: writes(nats_proxy, buckets) == 2)
    writer.cancel()
    await asyncio.gather(*waiting, *(append_until_done(index_writer, "g", one) for one in ids[3:]))
    assert sorted(await buckets.ids("g")) == sorted(ids)


def running_writes() -> list[asyncio.Task[Any]]:
    """The tasks that write the ids which waited for another write."""
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "_write"]


async def test_an_answer_that_cannot_be_read_releases_the_group(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    ids = new_ids(6)
    appends = [asyncio.create_task(index_writer.append("g", one)) for one in ids]
    nats_proxy.rewrite(f"$KV.{buckets.group_index_name}.", 1, lambda publication: publication)
    nats_proxy.garble_reply(f"$KV.{buckets.group_index_name}.", 1)
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(result, StoreUnavailable) for result in results] == [False, *[True] * 5]
    assert results[0] is None
    await asyncio.gather(*(index_writer.append("g", one, again=True) for one in ids[1:]))
    assert sorted(await buckets.ids("g")) == sorted(ids)


async def test_an_unexpected_error_is_logged_and_releases_the_group(
    index_writer: IndexWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = new_ids(6)
    update, calls = bucket.Bucket.update, itertools.count(1)

    async def fail_once(self: bucket.Bucket, key: str, value: bytes, revision: int) -> int:
        if next(calls) == 2:
            raise RuntimeError
        return await update(self, key, value, revision)

    monkeypatch.setattr(bucket.Bucket, "update", fail_once)
    results = await asyncio.gather(*(index_writer.append("g", one) for one in ids), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), *[StoreUnavailable] * 5]
    assert caplog.messages == ["group_index.failed"]
    await asyncio.gather(*(index_writer.append("g", one, again=True) for one in ids[1:]))
    assert sorted(await buckets.ids("g")) == sorted(ids)


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

    async with another_writer(nats_server, buckets) as another, asyncio.timeout(60):
        await asyncio.gather(write(index_writer, mine), write(another, theirs), disturb())
    found = await buckets.ids("g")
    assert found[: len(first)] == first
    assert sorted(found[len(first) :]) == sorted([*mine, *theirs])

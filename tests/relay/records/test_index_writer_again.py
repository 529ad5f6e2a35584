# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Appends that must not repeat an id, also while other writers append the same ids."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from shared import group_index
from shared import index_writer as index_writers
from tests.relay.records.appends import another_writer, full, new_ids

if TYPE_CHECKING:
    from shared.index_writer import IndexWriter
    from tests.relay.kv import Buckets
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer


@pytest.mark.parametrize("listed", [0, 30, group_index.capacity(0) - 3])
async def test_writers_that_append_the_same_ids_again_at_once_list_each_once(
    nats_server: NatsServer, buckets: Buckets, listed: int
) -> None:
    known, ids = new_ids(listed), new_ids(40)
    if known:
        await buckets.put_segment("g", 0, group_index.encode(known))
    async with AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(another_writer(nats_server, buckets)) for _ in range(4)]

        async def write(writer: IndexWriter, some: list[str]) -> None:
            await asyncio.gather(*(writer.append("g", one, again=True) for one in [*some, *some[:5]]))

        await asyncio.gather(*(write(writer, ids[at:] + ids[:at]) for at, writer in enumerate(writers)))
    found = await buckets.ids("g")
    assert found[:listed] == known
    assert sorted(found[listed:]) == sorted(ids)


async def test_an_id_that_another_writer_appended_after_the_index_was_read_is_not_appended_again(
    nats_server: NatsServer, index_writer: IndexWriter, buckets: Buckets
) -> None:
    [first, *ids] = new_ids(3)
    await index_writer.append("g", first, again=True)
    async with another_writer(nats_server, buckets) as another:
        await another.append("g", ids[0])
        await asyncio.gather(*(index_writer.append("g", one, again=True) for one in ids))
    assert await buckets.ids("g") == [first, *ids]


async def test_many_appends_again_read_a_large_group_once(
    index_writer: IndexWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    known = full(0)
    await buckets.put_segment("g", 0, group_index.encode(known))
    ids = new_ids(20)
    for one in [*ids, known[7]]:
        await index_writer.append("g", one, again=True)
    whole = f"$JS.API.DIRECT.GET.KV_{buckets.group_index_name}"
    assert nats_proxy.published.count(whole) == 1
    assert await buckets.ids("g") == [*known, *ids]


async def test_the_ids_of_a_bucket_that_was_created_again_are_forgotten(
    index_writer: IndexWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_writers, "CONFIRMED_SECONDS", 0.0)
    [one] = new_ids(1)
    await index_writer.append("g", one, again=True)
    await buckets.delete()
    await buckets.make()
    await index_writer.append("g", one, again=True)
    assert await buckets.ids("g") == [one]

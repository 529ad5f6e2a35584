# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A query that asks about the index before a removal, and about the records after it, finds the seal."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from tests.tracker.commands.retention.memory import Client, MemoryBucket, Network, follow
from tracker.queries import seal
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.seal import Leaving, Seal

if TYPE_CHECKING:
    from tests.tracker.commands.retention.memory import MemoryFollower


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_record_that_is_deleted_after_the_index_was_followed_is_found_in_its_seal() -> None:
    network = Network()
    recipients, index = MemoryBucket(network, "recipients"), MemoryBucket(network, "index")
    record = recipients.put("a", json.dumps({"delivered": True}).encode())
    segment = index.put("g", b'["a"]')
    followers: list[MemoryFollower] = []
    reader = GroupReader(recipients, index)  # type: ignore[arg-type]
    live = LiveCounts(reader, recipients, index, follow(network, followers))  # type: ignore[arg-type]
    first, second = Client("first"), Client("second")
    first.start(live.count("g"))
    await settle()
    while network.waiting:
        network.let_happen(0)
        await settle()

    second.start(live.count("g"))
    await settle()
    assert len(network.waiting) == 2
    network.let_happen(1)  # how far the index was written
    index.put("=seal.0.g", seal.encode(Seal(leaving={"a": Leaving(record, 1, 0, 0, 0)})), 0)
    index.put("g", b"[]", segment)
    recipients.put("a", None, record)
    while network.waiting:
        network.let_happen(0)
        await settle()
    assert first.task
    assert second.task
    assert first.task.result() == second.task.result()
    assert first.task.result().delivered == 1
    await live.aclose()

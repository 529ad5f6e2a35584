# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The memory of the counts is bounded. A group that finds no space, or whose load fails, is counted anyway."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shared.errors import StoreUnavailable
from tests.stack import nats_proxy as proxies
from tests.stack.nats_proxy import Publication
from tests.stack.waiting import until
from tests.tracker.queries.counting import RECORDS
from tracker.queries import full_count, live_counts

if TYPE_CHECKING:
    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.tracker.queries.counting import Writers
    from tracker.queries.live_counts import LiveCounts

READ = f"$JS.API.DIRECT.GET.KV_{RECORDS}"


class Reads:
    """The reads of records; some do not reach the server until the test lets them."""

    def __init__(self, proxy: NatsProxy, connection: Connection) -> None:
        self._proxy = proxy
        self._connection = connection
        self._held: asyncio.Queue[Publication] = asyncio.Queue()

    @property
    def begun(self) -> int:
        """How many batches of records were asked for."""
        return self._proxy.published.count(READ)

    def hold(self, times: int = 1) -> None:
        """Hold the next ones."""
        self._proxy.rewrite(READ, times, self._hold)

    def _hold(self, request: Publication) -> Publication:
        self._held.put_nowait(request)
        return Publication("nowhere", "", b"")

    async def held(self) -> Publication:
        """Return the next one that is held."""
        async with asyncio.timeout(20):
            return await self._held.get()

    async def let_pass(self, request: Publication) -> None:
        """Let the server answer one."""
        await self._connection.client.publish(request.subject, request.payload, request.reply)


@pytest.fixture
def reads(proxy: NatsProxy, connection: Connection) -> Reads:
    """The reads of the counts under test."""
    return Reads(proxy, connection)


@pytest.fixture
async def groups(writers: Writers) -> list[str]:
    """Four groups of three emails each."""
    names = [f"group-{number}" for number in range(4)]
    for name in names:
        writers.groups[name] = [[]]
        for _ in range(3):
            await writers.send(name)
    return names


async def test_a_group_that_is_being_loaded_is_not_evicted_by_queries_of_others(
    counts: LiveCounts,
    writers: Writers,
    groups: list[str],
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, *_ = groups
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 5)
    await counts.count(first)
    reads.hold()
    loading = asyncio.create_task(counts.count(second))
    request = await reads.held()
    for _ in range(5):
        assert await counts.count(first) == await writers.recounted(first)
    await reads.let_pass(request)
    assert await loading == await writers.recounted(second)
    assert reads.begun == 2


async def test_large_groups_that_are_queried_at_once_are_all_answered_within_the_memory(
    counts: LiveCounts,
    writers: Writers,
    groups: list[str],
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 7)
    reads.hold(4)
    answers = [asyncio.create_task(counts.count(name)) for name in groups]
    for _ in groups:
        request = await reads.held()
        await until(lambda: len(counts) == 6)
        await reads.let_pass(request)
    assert await asyncio.gather(*answers) == [await writers.recounted(name) for name in groups]
    assert len(counts) == 6


async def test_of_the_large_groups_that_are_not_kept_one_at_a_time_is_in_memory(
    counts: LiveCounts,
    writers: Writers,
    groups: list[str],
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 2)
    monkeypatch.setattr(full_count, "SMALL_EMAILS", 2)
    writers.groups["small"] = [[]]
    await writers.send("small")
    reads.hold()
    large = [asyncio.create_task(counts.count(name)) for name in groups]
    request = await reads.held()
    assert await counts.count("small") == await writers.recounted("small")
    assert reads.begun == 2
    await reads.let_pass(request)
    assert await asyncio.gather(*large) == [await writers.recounted(name) for name in groups]


async def test_a_group_that_was_queried_a_moment_ago_is_not_evicted_for_another_one(
    counts: LiveCounts, writers: Writers, groups: list[str], reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, _ = groups
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 4)
    for name in (first, second, first, second, first):
        assert await counts.count(name) == await writers.recounted(name)
    assert reads.begun == 3
    monkeypatch.setattr(live_counts, "RECENT_SECONDS", 0.0)
    for _ in range(2):
        assert await counts.count(third) == await writers.recounted(third)
    assert reads.begun == 4


async def test_a_group_over_the_limit_evicts_no_others(
    counts: LiveCounts, writers: Writers, groups: list[str], reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_counts, "RECENT_SECONDS", 0.0)
    await counts.count(groups[0])
    await writers.send(groups[1])
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 3)
    assert await counts.count(groups[1]) == await writers.recounted(groups[1])
    before = reads.begun
    await counts.count(groups[0])
    assert reads.begun == before


async def test_callers_that_come_while_a_group_is_loaded_share_the_next_count(
    counts: LiveCounts,
    writers: Writers,
    groups: list[str],
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 2)
    reads.hold()
    first = asyncio.create_task(counts.count(groups[0]))
    request = await reads.held()
    await writers.deliver(groups[0])
    others = [asyncio.create_task(counts.count(groups[0])) for _ in range(50)]
    await asyncio.sleep(0)
    await reads.let_pass(request)
    await first
    assert await asyncio.gather(*others) == [await writers.recounted(groups[0])] * 50
    assert reads.begun == 2


async def test_a_caller_that_is_cancelled_interrupts_no_other_one(
    counts: LiveCounts, writers: Writers, groups: list[str], reads: Reads
) -> None:
    reads.hold()
    cancelled = asyncio.create_task(counts.count(groups[0]))
    request = await reads.held()
    other = asyncio.create_task(counts.count(groups[0]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    assert cancelled.cancelled()
    await reads.let_pass(request)
    assert await other == await writers.recounted(groups[0])
    assert reads.begun == 1


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_after_a_load_that_failed_the_group_is_counted_again(
    counts: LiveCounts, writers: Writers, groups: list[str], proxy: NatsProxy, failures: int
) -> None:
    proxy.answer(READ, failures, proxies.no_responders())
    answers: list[object] = await asyncio.gather(*(counts.count(groups[0]) for _ in range(3)), return_exceptions=True)
    failed = [one for one in answers if isinstance(one, StoreUnavailable)]
    assert len(failed) == (0 if failures == 1 else 1)
    assert await counts.count(groups[0]) == await writers.recounted(groups[0])


async def test_streams_are_followed_as_long_as_a_group_is_loaded(
    counts: LiveCounts,
    writers: Writers,
    groups: list[str],
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await counts.count(groups[0])
    monkeypatch.setattr(live_counts, "IDLE_SECONDS", 0.05)
    reads.hold()
    loading = asyncio.create_task(counts.count(groups[1]))
    request = await reads.held()
    await asyncio.sleep(0.2)
    assert len(counts) == 6
    await reads.let_pass(request)
    assert await loading == await writers.recounted(groups[1])
    await until(lambda: not len(counts))


async def test_the_memory_is_limited_by_emails_and_by_time(
    counts: LiveCounts, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group_id in ("g", "other group"):
        for _ in range(4):
            await writers.send(group_id)
    await counts.count("g")
    await counts.count("other group")
    assert len(counts) == 8
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 4)
    await counts.count("other group")
    assert len(counts) == 4
    await writers.send("g")
    assert await counts.count("g") == await writers.recounted("g")
    assert len(counts) == 4
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 100)
    monkeypatch.setattr(live_counts, "IDLE_SECONDS", 0.0)
    await counts.count("g")
    assert len(counts) == 5


async def test_a_group_over_the_limit_is_not_kept_in_memory(
    counts: LiveCounts, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 2)
    for kept in (1, 2, 0, 0):
        await writers.send("g")
        assert await counts.count("g") == await writers.recounted("g")
        assert len(counts) == kept

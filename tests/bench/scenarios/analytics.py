# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Analytics of groups of several sizes: the first request, the next ones, and during events."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from itertools import repeat
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from shared import contract
from shared.contract import GetEmailEngagementAnalyticsRequest, GetEmailEngagementAnalyticsResponse
from tests.bench import buckets, mails, naive_queries, nats_echo, proc, row
from tests.bench.caller import Request
from tests.bench.row import MILLISECONDS, Collected

if TYPE_CHECKING:
    from tests.bench.row import Row
    from tests.bench.stage import Stage

AGAIN = 50
NAIVE_UP_TO = 20_000


async def run(stage: Stage) -> list[Row]:
    """Analytics: first and repeated requests, at rest and during events of the group."""
    collected = Collected()
    groups = {size: str(uuid4()) for size in stage.options.groups}
    email_ids = {size: await buckets.fill_group(stage.caller, groups[size], size) for size in groups}
    for _ in range(stage.options.runs):
        for size, group_id in groups.items():
            await _at_rest(stage, size, group_id, collected)
    if not stage.options.alone:
        await _compare(stage, groups, email_ids, collected)
    busy = max(size for size in groups if size <= NAIVE_UP_TO)
    await _busy(stage, groups[busy], email_ids[busy], collected)
    return collected.rows()


async def _at_rest(stage: Stage, size: int, group_id: str, collected: Collected) -> None:
    """Send a first and repeated requests to a new tracker; check that it counts all emails."""
    async with stage.tracker() as tracker:
        first = await stage.caller.load([_question(group_id)], 1, [tracker.pid])
        again = await stage.caller.load(repeat(_question(group_id), AGAIN), 1, [tracker.pid])
        counts = await _counts(stage, group_id)
        if counts.total_sent != size:
            raise RuntimeError(f"{counts.total_sent} of {size} are counted")
        peak = proc.peak_mb([tracker.pid])
    sample = row.of_latency(first.latencies, first.cpu_seconds, peak)
    collected.add("tracker", "service", sample, case=f"{size:,} first", unit=MILLISECONDS)
    sample = row.of_latency(again.latencies, again.cpu_seconds)
    collected.add("tracker", "service", sample, case=f"{size:,} again", unit=MILLISECONDS)


async def _compare(stage: Stage, groups: dict[int, str], email_ids: dict[int, list[str]], collected: Collected) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stage.helper("nats_echo", stage.nats_url))
        await stack.enter_async_context(stage.helper("naive_queries", stage.nats_url))
        for _ in range(stage.options.runs):
            for size, group_id in groups.items():
                await _limits(stage, group_id, email_ids[size], collected)
        for size, group_id in groups.items():
            if size <= NAIVE_UP_TO:
                slow = await stage.caller.load([_question(group_id, naive_queries.ANALYTICS)], 1)
                for case in ("first", "again"):
                    sample = row.of_latency(slow.latencies)
                    collected.add("a KV read per record", "naive", sample, case=f"{size:,} {case}", unit=MILLISECONDS)


async def _limits(stage: Stage, group_id: str, email_ids: list[str], collected: Collected) -> None:
    size = len(email_ids)
    began = time.perf_counter()
    await buckets.read_segments(stage.caller, group_id)
    await buckets.read_records(stage.caller, email_ids)
    sample = row.of_latency([time.perf_counter() - began])
    collected.add("batch reads", "limit", sample, case=f"{size:,} first", unit=MILLISECONDS)
    echo = await stage.caller.load(repeat(_question(group_id, nats_echo.SUBJECT), AGAIN), 1)
    sample = row.of_latency(echo.latencies)
    collected.add("NATS request and reply", "limit", sample, case=f"{size:,} again", unit=MILLISECONDS)


async def _busy(stage: Stage, group_id: str, email_ids: list[str], collected: Collected) -> None:
    """Send requests without a pause while the tracker applies events of the group; check that none is missing."""
    some = email_ids[: stage.options.count(1000)]
    async with stage.queue() as feed, stage.tracker(feed) as tracker:
        await feed.hold(mails.engagement(group_id, some))
        await stage.caller.ask(_question(group_id))
        await feed.release()
        applied = asyncio.create_task(feed.until_empty())
        latencies = [await _seconds(stage, group_id)]
        while not applied.done():
            latencies.append(await _seconds(stage, group_id))
        counts = await _counts(stage, group_id)
        if (counts.delivered, counts.opened, counts.unique_opened) != (len(some),) * 3:
            raise RuntimeError(f"{len(some)} emails were opened: {counts}")
        sample = row.of_latency(latencies, peak_mb=proc.peak_mb([tracker.pid]))
    case = f"{len(email_ids):,} again, events coming in"
    collected.add("tracker", "service", sample, case=case, unit=MILLISECONDS)


async def _seconds(stage: Stage, group_id: str) -> float:
    began = time.perf_counter()
    await stage.caller.ask(_question(group_id))
    return time.perf_counter() - began


async def _counts(stage: Stage, group_id: str) -> GetEmailEngagementAnalyticsResponse:
    reply = await stage.caller.ask(_question(group_id))
    return msgspec.json.decode(reply, type=GetEmailEngagementAnalyticsResponse)


def _question(group_id: str, subject: str = contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT) -> Request:
    return Request(subject, msgspec.json.encode(GetEmailEngagementAnalyticsRequest(group_id=group_id)))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The records of a group: all of a small one, and page after page of a large one."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from shared import contract
from shared.contract import EmailRecipientRecord, GetEmailStatusRequest
from tests.bench import buckets, naive_queries, proc, row
from tests.bench.caller import Request
from tests.bench.row import MILLISECONDS, Collected

if TYPE_CHECKING:
    from tests.bench.program import Program
    from tests.bench.row import Row
    from tests.bench.stage import Stage

PAGE = 500
TIMES = 10


class Case(NamedTuple):
    """The requests for a group of some size."""

    name: str
    group_id: str
    email_ids: list[str]
    pages: list[GetEmailStatusRequest]
    page_size: int


async def run(stage: Stage) -> list[Row]:
    """Status of a group: all records of 1,000, and pages of 500 out of 30,000."""
    collected = Collected()
    cases = [await _whole(stage), await _paged(stage)]
    async with AsyncExitStack() as stack:
        tracker = await stack.enter_async_context(stage.tracker())
        if not stage.options.alone:
            await stack.enter_async_context(stage.helper("naive_queries", stage.nats_url))
        for _ in range(stage.options.runs):
            for case in cases:
                await _measure(stage, tracker, case, collected)
                if not stage.options.alone:
                    await _compare(stage, case, collected)
    return collected.rows()


async def _whole(stage: Stage) -> Case:
    size, group_id = stage.options.count(1000), str(uuid4())
    email_ids = await buckets.fill_group(stage.caller, group_id, size)
    return Case(f"all {size:,}", group_id, email_ids, [GetEmailStatusRequest(group_id=group_id)] * TIMES, size)


async def _paged(stage: Stage) -> Case:
    size, group_id = stage.options.count(30_000, least=2 * PAGE), str(uuid4())
    email_ids = await buckets.fill_group(stage.caller, group_id, size)
    pages = [GetEmailStatusRequest(group_id=group_id, offset=at, limit=PAGE) for at in range(0, size, PAGE)]
    return Case(f"{PAGE} of {size:,}", group_id, email_ids, pages, PAGE)


async def _measure(stage: Stage, tracker: Program, case: Case, collected: Collected) -> None:
    requests = [Request(contract.GET_EMAIL_STATUS_SUBJECT, msgspec.json.encode(page)) for page in case.pages]
    load = await stage.caller.load(requests, 1, [tracker.pid])
    last = msgspec.json.decode(await stage.caller.ask(requests[-1]), type=list[EmailRecipientRecord])
    if [record.email_id for record in last] != case.email_ids[-len(last) :]:
        raise RuntimeError(f"{case.name}: the last page is not the end of the group")
    sample = replace(row.of_latency(load.latencies, load.cpu_seconds), peak_mb=proc.peak_mb([tracker.pid]))
    collected.add("tracker", "service", sample, case=case.name, unit=MILLISECONDS)


async def _compare(stage: Stage, case: Case, collected: Collected) -> None:
    began = time.perf_counter()
    await buckets.read_segments(stage.caller, case.group_id)
    await buckets.read_records(stage.caller, case.email_ids[: case.page_size])
    sample = row.of_latency([time.perf_counter() - began])
    collected.add("batch reads", "limit", sample, case=case.name, unit=MILLISECONDS)
    request = Request(naive_queries.GROUP, msgspec.json.encode(case.pages[0]))
    load = await stage.caller.load([request], 1)
    collected.add("a KV read per record", "naive", row.of_latency(load.latencies), case=case.name, unit=MILLISECONDS)

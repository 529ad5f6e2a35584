# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Status by id, by one caller and by many."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from shared import contract
from shared.contract import GetEmailStatusRequest
from tests.bench import buckets, naive_queries, nats_echo, proc, row
from tests.bench.caller import Request
from tests.bench.row import Collected

if TYPE_CHECKING:
    from tests.bench.program import Program
    from tests.bench.row import Row, Sample
    from tests.bench.stage import Stage

CASES = {"1 caller": (1, 4000), "32 callers": (32, 15_000)}


async def run(stage: Stage) -> list[Row]:
    """Status of one email by id."""
    collected = Collected()
    email_ids = await buckets.fill_group(stage.caller, str(uuid4()), stage.options.count(10_000))
    async with AsyncExitStack() as stack:
        tracker = await stack.enter_async_context(stage.tracker())
        if not stage.options.alone:
            await stack.enter_async_context(stage.helper("nats_echo", stage.nats_url))
            await stack.enter_async_context(stage.helper("naive_queries", stage.nats_url))
        for _ in range(stage.options.runs):
            for case in CASES:
                await _measure(stage, tracker, email_ids, case, collected)
    return collected.rows()


async def _measure(stage: Stage, tracker: Program, email_ids: list[str], case: str, collected: Collected) -> None:
    callers, full = CASES[case]
    count = stage.options.count(full)
    asked = random.choices(email_ids, k=count)  # noqa: S311
    queries = [msgspec.json.encode(GetEmailStatusRequest(email_id=one)) for one in asked]

    async def load(subject: str, payloads: list[bytes], *watched: int) -> Sample:
        return (await stage.caller.load((Request(subject, one) for one in payloads), callers, watched)).sample()

    sample = await load(contract.GET_EMAIL_STATUS_SUBJECT, queries, tracker.pid)
    collected.add("tracker", "service", replace(sample, peak_mb=proc.peak_mb([tracker.pid])), case=case)
    if stage.options.alone:
        return
    reads = (Request(f"{buckets.BATCH_GET}.{buckets.RECORDS}{one}") for one in asked)
    read = (await stage.caller.load(reads, callers)).sample()
    collected.add("KV read", "limit", read, case=case)
    echo = await load(nats_echo.SUBJECT, queries)
    collected.add("NATS request and reply", "limit", echo, case=case)
    collected.add("both in turn", "limit", row.in_turn(read, echo), case=case)
    collected.add("nats-py KV read", "naive", await load(naive_queries.STATUS, queries[: count // 4]), case=case)

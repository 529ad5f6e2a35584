# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""All callers send to one growing group, through one relay and through two."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import click
from msgspec.structs import replace

from tests.bench import buckets, proc, row, smtp_load
from tests.bench.row import Collected, Sample
from tests.bench.scenarios import send

if TYPE_CHECKING:
    from tests.bench.caller import Load
    from tests.bench.options import Options
    from tests.bench.program import Program
    from tests.bench.row import Row
    from tests.bench.smtp_load import Target
    from tests.bench.stage import Stage

THIRDS = ("first third", "second third", "last third")


async def run(stage: Stage) -> list[Row]:
    """One group that grows to 30,000 emails."""
    collected = Collected()
    emails = stage.options.count(30_000)
    async with stage.sink() as target:
        for relays, case in ((1, "one relay"), (2, "two relays")):
            async with AsyncExitStack() as stack:
                running = [await stack.enter_async_context(stage.relay(target)) for _ in range(relays)]
                await _grow(stage, running, emails, collected, case)
            if not stage.options.alone:
                await _limit(target, emails, collected, case)
    return collected.rows()


async def _grow(stage: Stage, relays: list[Program], emails: int, collected: Collected, case: str) -> None:
    callers, pids, group_id = stage.options.callers, [relay.pid for relay in relays], str(uuid4())
    await stage.caller.load(send.requests(callers), callers)
    loads = [await stage.caller.load(send.requests(emails // 3, group_id), callers, pids) for _ in THIRDS]
    _check(await buckets.read_group(stage.caller, group_id), emails // 3 * 3, stage.options)
    collected.add("relay", "service", replace(_whole(loads), peak_mb=proc.peak_mb(pids)), case=case)
    for third, load in zip(THIRDS, loads, strict=True):
        collected.add(third, "part", load.sample(), case=case)


def _check(email_ids: list[str], sent: int, options: Options) -> None:
    """Check that each email is in the group once; of another program, only tell how many are not."""
    if len(set(email_ids)) == len(email_ids) == sent:
        return
    text = f"the index has {len(email_ids)} entries, {len(set(email_ids))} different ones, for {sent} emails"
    if not options.program:
        raise RuntimeError(text)
    click.echo(f"{options.program.name}: {text}", err=True)


async def _limit(target: Target, emails: int, collected: Collected, case: str) -> None:
    alone = await smtp_load.measure(target, send.CONNECTIONS, min(emails, 10_000))
    collected.add(f"{send.CONNECTIONS} kept SMTP connections", "limit", alone, case=case)


def _whole(loads: list[Load]) -> Sample:
    latencies = [latency for load in loads for latency in load.latencies]
    return row.of_rate(latencies, sum(load.seconds for load in loads), sum(load.cpu_seconds for load in loads))

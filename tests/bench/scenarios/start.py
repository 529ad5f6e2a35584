# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The time from exec to ready, and the memory of an idle process."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from tests.bench import proc
from tests.bench.row import MEGABYTES, MILLISECONDS, Collected, Sample
from tests.bench.stage import RELAY, TRACKER, eventing
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from tests.bench.row import Row
    from tests.bench.stage import Stage

STARTS = 5  # for each run: single starts vary
REST_SECONDS = 1.0


async def run(stage: Stage) -> list[Row]:
    """Start: time from exec to ready, and memory at rest."""
    collected = Collected()
    async with stage.queue() as feed:
        processes = {
            "relay": (RELAY, {"EMAIL_ENABLED": "true"}),
            "tracker": (TRACKER, {}),
            "tracker, eventing": (TRACKER, eventing(feed)),
        }
        for _ in range(stage.options.runs * stage.options.count(STARTS, least=1)):
            for case, (script, settings) in processes.items():
                await _start(stage, script, settings, case, collected)
                if not stage.options.alone:
                    limit = Sample(value=await _interpreter())
                    collected.add("python -c pass", "limit", limit, case=f"{case}: start", unit=MILLISECONDS)
    return sorted(collected.rows(), key=lambda row: row.case.endswith("rest"))


async def _start(stage: Stage, script: str, settings: dict[str, str], case: str, collected: Collected) -> None:
    port = free_port()
    async with stage.start(script, port, **settings) as running:
        seconds = await running.wait_until_serving(port)
        await asyncio.sleep(REST_SECONDS * min(1.0, stage.options.scale))
        started = Sample(value=seconds * 1e3, cpu_us=proc.cpu_seconds([running.pid]) * 1e6)
        at_rest = Sample(value=proc.rss_mb(running.pid), peak_mb=proc.peak_mb([running.pid]))
    collected.add(script, "service", started, case=f"{case}: start", unit=MILLISECONDS)
    collected.add(script, "service", at_rest, case=f"{case}: at rest", unit=MEGABYTES)


async def _interpreter() -> float:
    """Return the milliseconds of a start of Python without a program."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await process.wait()
    return (time.perf_counter() - began) * 1e3

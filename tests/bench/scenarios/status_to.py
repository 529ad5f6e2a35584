# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `status --to`, which reads all records: its time and memory, and how far it slows sending down."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from itertools import repeat
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from shared import contract
from tests.bench import buckets, mails, proc
from tests.bench.caller import Request
from tests.bench.row import SECONDS, TIMES, Collected, Sample
from tests.bench.stage import TRACKER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.program import Program
    from tests.bench.row import Row
    from tests.bench.stage import Stage

GROUP: Final = 10_000
ADDRESS: Final = "another@example.com"
PAIRS: Final = 12  # for each run: windows of sending with the command and without it, in turn
WINDOW_SECONDS: Final = 4.0
SETTLED_SECONDS: Final = 1.0  # after the start or the end of the command
LEAST_SCALE: Final = 0.1
LOOK_AGAIN_SECONDS: Final = 0.1


class Sending:
    """Callers that send without a pause."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._sent = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send for as long as the block runs."""
        callers = [asyncio.create_task(self._send_all()) for _ in range(self._stage.options.callers)]
        try:
            yield
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)

    async def rate(self) -> float:
        """Wait until the load has settled; return the emails a second of one window."""
        scale = min(1.0, max(LEAST_SCALE, self._stage.options.scale))
        await asyncio.sleep(SETTLED_SECONDS * scale)
        sent, began = self._sent, time.perf_counter()
        await asyncio.sleep(WINDOW_SECONDS * scale)
        return (self._sent - sent) / (time.perf_counter() - began)

    async def _send_all(self) -> None:
        for request in repeat(Request(contract.SEND_EMAIL_SUBJECT, mails.send_request(None))):
            await self._stage.caller.ask(request)
            self._sent += 1


async def run(stage: Stage) -> list[Row]:
    """Search: `status --to` over all records, alone and beside sending."""
    collected, options = Collected(), stage.options
    size = options.count(GROUP)
    for _ in range(max(1, options.count(options.records) // size)):
        await buckets.fill_group(stage.caller, str(uuid4()), size)
    await stage.caller.ask(Request(f"{buckets.RECORDS}{uuid4()}", mails.record(str(uuid4()), str(uuid4()), ADDRESS)))
    async with stage.sink() as target, stage.relay(target):
        for _ in range(options.runs):
            async with stage.command(TRACKER, "status", "--to", ADDRESS) as command:
                collected.add("status --to", "service", await _whole(command), case="alone", unit=SECONDS)
            sending = Sending(stage)
            async with sending.running():
                await _in_turn(stage, sending, collected, options.count(PAIRS, least=1))
                async with stage.command(TRACKER, "status", "--to", ADDRESS) as command:
                    collected.add("status --to", "service", await _whole(command), case="beside sending", unit=SECONDS)
    return collected.rows()


async def _in_turn(stage: Stage, sending: Sending, collected: Collected, pairs: int) -> None:
    """Measure the rate of sending with the command and without it, and the ratio of each pair."""
    for _ in range(pairs):
        without = await sending.rate()
        async with stage.command(TRACKER, "status", "--to", ADDRESS):
            beside = await sending.rate()
        collected.add("emails without it", "part", Sample(value=without), case="sending")
        collected.add("emails beside it", "part", Sample(value=beside), case="sending")
        collected.add("ratio", "part", Sample(value=beside / without), case="sending", unit=TIMES)


async def _whole(command: Program) -> Sample:
    """Return the seconds until the command ends, and its peak of memory."""
    peak = 0.0
    while command.is_running:
        with suppress(OSError, RuntimeError):  # it ends at this moment
            peak = max(peak, proc.peak_mb([command.pid]))
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return Sample(value=time.perf_counter() - command.started_at, peak_mb=peak)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A single email beside a mailing that takes more than the rate: how long it takes, and how fast the mailing is."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shared import contract
from tests.bench import mails, row
from tests.bench.caller import Request
from tests.bench.row import MILLISECONDS, Collected, Sample

if TYPE_CHECKING:
    from tests.bench.row import Row
    from tests.bench.stage import Stage

RATE: Final = 100
CALLERS: Final = 1500
SINGLES: Final = 20
BETWEEN_SECONDS: Final = 0.2
BUSY_SECONDS: Final = (0.2, 1.0)  # a caller of the mailing waits so long before it asks again
MAILING: Final = Request(contract.SEND_EMAIL_SUBJECT, mails.send_request("mailing"))
SINGLE: Final = Request(contract.SEND_EMAIL_SUBJECT, mails.send_request(None))


async def run(stage: Stage) -> list[Row]:
    """Single emails beside a mailing of 1,500 callers, at 100 emails a second."""
    collected = Collected()
    for _ in range(stage.options.runs):
        async with stage.sink() as target, stage.relay(target, SES_MAX_SEND_RATE=str(RATE)):
            await _measure(stage, collected)
    return collected.rows()


async def _measure(stage: Stage, collected: Collected) -> None:
    sent: list[float] = []
    callers = [asyncio.create_task(_send(stage, sent)) for _ in range(stage.options.count(CALLERS))]
    began = time.perf_counter()
    try:
        await asyncio.sleep(stage.options.scale)  # the mailing takes all that it can
        latencies = [await _single(stage) for _ in range(stage.options.count(SINGLES, least=3))]
        seconds = time.perf_counter() - began
        emails = len(sent)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
    collected.add("relay", "service", row.of_latency(latencies), case="single email", unit=MILLISECONDS)
    collected.add("relay", "part", Sample(value=emails / seconds), case="mailing")


async def _single(stage: Stage) -> float:
    """Return the seconds of one email.

    Raises:
        RuntimeError: it was refused.
    """
    await asyncio.sleep(BETWEEN_SECONDS)
    began = time.perf_counter()
    await stage.caller.ask(SINGLE)
    return time.perf_counter() - began


async def _send(stage: Stage, sent: list[float]) -> None:
    """Send until cancelled; wait while the service is busy."""
    while True:
        with suppress(RuntimeError):
            await stage.caller.ask(MAILING)
            sent.append(time.perf_counter())
            continue
        await asyncio.sleep(random.uniform(*BUSY_SECONDS))  # noqa: S311 - not a secret

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Relays that share the rate of an account, counted at the SMTP server."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.acceptance import load, services
from tests.stack import console, scripted_smtp
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Moment

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATE = 60
LEAST, MOST = 50, 66
TAKEN_SECONDS = 10
TICK_SECONDS = 0.01
STALLED_SECONDS = 0.05


class Counted:
    """A script that accepts every email and notes when it began, and when this busy process itself stood still."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._stalls: list[tuple[float, float]] = []

    def __call__(self, moment: Moment) -> None:
        """Note the time of each MAIL."""
        if moment.stage == "mail":
            self.times.append(now())

    async def watch(self) -> None:
        """Note the times in which nothing could be read, so that emails came together afterwards."""
        last = now()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if now() - last > STALLED_SECONDS:
                self._stalls.append((last, now()))
            last = now()

    @property
    def last_second(self) -> int:
        """The emails of the second that ends now."""
        return len(self.times) - bisect_left(self.times, now() - 1)

    def each_second(self) -> list[int]:
        """Count the emails of each second that begins with one of them."""
        begins = [(index, at) for index, at in enumerate(self.times) if not self._is_distorted(at)]
        return [bisect_left(self.times, at + 1) - index for index, at in begins]

    def _is_distorted(self, at: float) -> bool:
        return any(begin <= at <= end + TICK_SECONDS for begin, end in self._stalls)


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def counting(smtp: ScriptedSmtp) -> AsyncIterator[Counted]:
    """Count the emails of the server."""
    smtp.script = counted = Counted()
    watching = asyncio.create_task(counted.watch())
    try:
        yield counted
    finally:
        watching.cancel()


async def metric(relay: Console, name: str) -> float:
    """Return a metric without labels."""
    _, text = await relay.get("/metrics")
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


async def all_count(relays: list[Console]) -> None:
    """Return when the relays have equal shares."""
    for relay in relays:
        await until(partial(metric, relay, "email_relay_relays"), lambda count: count == len(relays))
        share = partial(metric, relay, "email_relay_send_rate_share")
        await until(share, lambda share: share == RATE / len(relays))


async def test_relays_that_come_leave_and_are_killed_send_at_one_rate_together(platform: Platform) -> None:
    variables = {"SES_ACCOUNT_SEND_RATE": str(RATE), "LOG_LEVEL": "warn"}
    async with scripted_smtp.running() as smtp, counting(smtp) as counted, AsyncExitStack() as stack:
        start = services.relay_environment(platform.nats, smtp, **variables)
        relays = [await stack.enter_async_context(console.running(services.RELAY, "serve", env=start)) for _ in "abc"]
        for relay in relays:
            await relay.wait_until_ready()
        async with load.running(platform.caller, senders=120, patience=5):
            async with console.running(services.RELAY, "check", env=start) as checking:
                await until(lambda: counted.last_second, lambda count: count >= LEAST)
                await checking.wait(30)
            relays.pop().kill()
            killed_at = now()
            await all_count(relays)
            taken = now() - killed_at
            relays.append(await stack.enter_async_context(services.relay(platform.nats, smtp, **variables)))
            await all_count(relays)
            relays.pop(0).terminate()
            await all_count(relays)
    assert "3 relays share 60 emails a second: 20 each" in checking.output
    assert taken < TAKEN_SECONDS
    assert max(counted.each_second()) <= MOST

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Emails are spaced evenly, also while the rate changes or the server is slow."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import TYPE_CHECKING

import pytest

from relay.smtp.send_rate import SendRate
from tests.relay.smtp.senders import Clock, now, sending
from tests.stack.smtp_scripts import Delay, always
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Moment


class Sends:
    """Callers of a rate that can be changed, and the times of their moments."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.times: list[float] = []
        self.send_rate = SendRate(lambda: self.rate)

    async def one(self) -> None:
        """Wait as for one email."""
        async with self.send_rate.turn():
            await self.send_rate.moment()
            self.times.append(now())

    def change(self, rate: float) -> None:
        """Change the rate."""
        self.rate = rate
        self.send_rate.change()

    def most_within(self, seconds: float) -> int:
        """Return the most sends of any time of this length."""
        return max(bisect_left(self.times, at + seconds) - index for index, at in enumerate(self.times))


async def test_a_changed_rate_is_used_at_once_and_without_a_burst() -> None:
    sends = Sends(0)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(60):
            tasks.create_task(sends.one())
        await asyncio.sleep(0.2)
        assert sends.times == []
        sends.change(50)
        await until(lambda: len(sends.times) >= 20)
        sends.change(200)
    assert len(sends.times) == 60
    assert sends.times[19] - sends.times[0] >= 19 / 50 - 0.03
    assert sends.most_within(0.1) <= 0.1 * 200 * 1.2 + 1


async def test_an_idle_time_allows_no_burst() -> None:
    sends = Sends(50)
    await sends.one()
    await asyncio.sleep(0.3)
    await asyncio.gather(*(sends.one() for _ in range(10)))
    assert sends.times[-1] - sends.times[1] >= 9 / 50 - 0.03


async def test_a_caller_that_stops_waiting_uses_no_turn() -> None:
    sends = Sends(0.001)
    await sends.one()
    waiting = [asyncio.create_task(sends.one()) for _ in range(20)]
    await asyncio.sleep(0)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    sends.change(1000)
    async with asyncio.timeout(20):
        await sends.one()


@pytest.mark.parametrize("share", [2.8, 4.67])
async def test_a_share_that_is_a_fraction_is_kept_in_any_second(share: float) -> None:
    sends = Sends(share * 0.98)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(sends.one())
    assert sends.most_within(1) <= share + 1


async def test_emails_that_waited_for_a_slow_server_are_not_sent_together(smtp: ScriptedSmtp) -> None:
    clock, slow = Clock("mail"), always("greeting", Delay(0.3))

    def script(moment: Moment) -> Action | None:
        return clock(moment) or slow(moment)

    smtp.script = script
    async with sending(smtp, connections=8, rate=50) as sender:
        await sender.send_all(range(20))
    for start in range(15):
        assert clock.times[start + 5] - clock.times[start] > 0.04, "never five at once"

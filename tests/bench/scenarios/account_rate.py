# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Three relays that share the rate of an account: the fewest and the most emails of any second, at the mail server."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from tests.bench.row import Collected, Sample
from tests.bench.scenarios import send
from tests.bench.smtp_load import Target
from tests.stack import scripted_smtp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.row import Row
    from tests.bench.stage import Stage
    from tests.stack.smtp_scripts import Moment

RELAYS: Final = 3
RATE: Final = 60
CALLERS: Final = 120
SETTLED_SECONDS: Final = 5.0  # from the start of the relays until they share the rate
SECONDS: Final = 20.0


class Emails:
    """A script that accepts every email and notes when it began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, moment: Moment) -> None:
        """Note the time of each MAIL."""
        if moment.stage == "mail":
            self.times.append(time.perf_counter())


async def run(stage: Stage) -> list[Row]:
    """Three relays with SES_ACCOUNT_SEND_RATE=60: emails in any second."""
    collected, scale = Collected(), min(1.0, stage.options.scale)
    for _ in range(stage.options.runs):
        emails = Emails()
        async with scripted_smtp.running(emails) as smtp, AsyncExitStack() as stack:
            for _ in range(RELAYS):
                target = Target(smtp.port, None, pipelining=False)
                await stack.enter_async_context(stage.relay(target, SES_ACCOUNT_SEND_RATE=str(RATE)))
            load = asyncio.create_task(stage.caller.load(send.requests(10**6), CALLERS))
            await asyncio.sleep(SETTLED_SECONDS * scale)
            begin = time.perf_counter()
            await asyncio.sleep(1 + SECONDS * scale)
            load.cancel()
            await asyncio.wait([load])
        counts = _each_second([at for at in emails.times if at >= begin], begin + SECONDS * scale)
        collected.add("mean", "service", Sample(value=sum(counts) / len(counts)), case="emails in a second")
        collected.add("fewest", "part", Sample(value=min(counts)), case="emails in a second")
        collected.add("most", "part", Sample(value=max(counts)), case="emails in a second")
    return collected.rows()


def _each_second(times: Sequence[float], until: float) -> list[int]:
    """Count the emails of each second that begins with one of them, before `until`; 0 if none was sent."""
    return [bisect_left(times, at + 1) - index for index, at in enumerate(times) if at < until] or [0]

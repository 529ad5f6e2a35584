# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The scenarios by name; each is a coroutine that returns the rows of its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import stage
from tests.bench.row import Result
from tests.bench.scenarios import (
    account_rate,
    analytics,
    events,
    fair,
    fast_paths,
    group_status,
    growth,
    hot_group,
    lookup,
    send,
    soak,
    start,
    status_to,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.options import Options
    from tests.bench.row import Row
    from tests.bench.stage import Stage

    Scenario = Callable[[Stage], Awaitable[list[Row]]]

ALL: dict[str, Scenario] = {
    "send_plain": send.plain,
    "send_tls": send.tls,
    "send_wan": send.wan,
    "fair": fair.run,
    "account_rate": account_rate.run,
    "hot_group": hot_group.run,
    "events": events.run,
    "lookup": lookup.run,
    "analytics": analytics.run,
    "group_status": group_status.run,
    "fast_paths": fast_paths.run,
    "start": start.run,
    "growth": growth.run,
    "soak": soak.run,
    "status_to": status_to.run,
}
ONLY_WHEN_ASKED = frozenset({"growth", "soak", "status_to"})


async def run(name: str, options: Options) -> Result:
    """Run one scenario with its own processes."""
    scenario = ALL[name]
    async with stage.running(options) as stage_:
        rows = await scenario(stage_)
    return Result(scenario=name, title=(scenario.__doc__ or name).partition("\n")[0].rstrip("."), rows=rows)

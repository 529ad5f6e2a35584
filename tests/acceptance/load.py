# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Callers that send one email after the other, also during outages, and record the acknowledged ones."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import nats.errors

from tests.stack.change import Change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.acceptance.caller import Caller

PATIENCE_SECONDS = 10.0
PAUSE_SECONDS = 0.02


class Load:
    """The emails acknowledged so far, by group in the order of the replies, all error replies, and the timeouts."""

    def __init__(self, groups: int, patience: float, pause: float) -> None:
        self.acknowledged: dict[str, list[str]] = {f"load-{number}": [] for number in range(groups)}
        self.errors: list[str] = []
        self.unanswered = 0
        self._patience = patience
        self._pause = pause
        self._change = Change()
        self._stopped = False
        self._numbers: Iterator[int] = itertools.count()

    @property
    def count(self) -> int:
        """The number of acknowledged emails."""
        return sum(map(len, self.acknowledged.values()))

    @property
    def email_ids(self) -> set[str]:
        """The ids of all acknowledged emails."""
        return {email_id for email_ids in self.acknowledged.values() for email_id in email_ids}

    async def wait_for(self, more: int, timeout: float = 30.0) -> None:
        """Return when `more` further emails are acknowledged."""
        goal = self.count + more
        await self._change.wait_until(
            lambda: self.count >= goal, timeout, lambda: f"{self.count} of {goal} acknowledged, {self.errors[-3:]}"
        )

    def stop(self) -> None:
        """Send no more."""
        self._stopped = True

    async def send(self, caller: Caller) -> None:
        """Send until stopped; an email without a reply may have been sent or not."""
        groups = list(self.acknowledged)
        while not self._stopped:
            group_id = groups[next(self._numbers) % len(groups)]
            try:
                async with asyncio.timeout(self._patience):
                    reply = await caller.send(group_id=group_id)
            except (nats.errors.Error, TimeoutError):
                self.unanswered += 1
                await asyncio.sleep(PAUSE_SECONDS)  # do not flood a server during its outage
                continue
            if "email_id" in reply:
                self.acknowledged[group_id].append(reply["email_id"])
            else:
                self.errors.append(reply["error"])
            self._change.notify()
            if self._pause:
                await asyncio.sleep(self._pause)  # leave processor time for the other tests


@asynccontextmanager
async def running(
    caller: Caller, *, senders: int = 16, groups: int = 3, patience: float = PATIENCE_SECONDS, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Send during the block; at its end wait for the open requests."""
    load = Load(groups, patience, pause)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(senders):
            tasks.create_task(load.send(caller))
        try:
            yield load
        finally:
            load.stop()

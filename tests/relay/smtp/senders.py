# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery with a pool of connections to a scripted server; asserts nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from relay.errors import Deferred
from relay.smtp.delivery import Delivery
from relay.smtp.pool import Pool, PoolLimits
from relay.smtp.send_rate import SendRate
from tests.relay.inputs import ENVELOPE, connector, mail
from tests.stack.smtp_scripts import (
    Moment,
    Reply,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from relay.smtp.connection import SmtpConnection
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage


ACCOUNT: dict[str, Any] = {"smtp_username": "u", "smtp_password": "p"}
THROTTLED = Reply("454 Throttling failure: Maximum sending rate exceeded.")
QUOTA = Reply("454 Throttling failure: Daily message quota exceeded.")
TRANSACTION: tuple[Stage, ...] = ("mail", "rcpt", "data", "dot")


class Sender:
    """Delivery with its pool."""

    def __init__(self, pool: Pool[SmtpConnection], rate: float) -> None:
        self.pool = pool
        self.deliver = Delivery(pool, send_rate=SendRate((lambda: rate) if rate else None), server=("localhost", 25))

    async def send(self, number: int, *, within: float = 8.0, group: str = "") -> None:
        """Deliver one email within a time."""
        await self.deliver(ENVELOPE, mail(number), deadline=now() + within, group=group or f"group-{number}")

    async def try_all(self, mails: Iterable[int], *, within: float = 8.0) -> list[BaseException | None]:
        """Deliver many at once; return the outcome of each."""
        return await asyncio.gather(*(self.send(number, within=within) for number in mails), return_exceptions=True)

    async def send_all(self, mails: Iterable[int], *, at_once: int = 1000) -> None:
        """Deliver many; none may fail."""
        places = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with places:
                await self.send(number)

        await asyncio.gather(*map(one, mails))


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def sending(
    smtp: ScriptedSmtp, *, connections: int = 4, messages: int = 1000, rate: float = 0, **changes: Any
) -> AsyncIterator[Sender]:
    """A sender to this server."""
    limits = PoolLimits(connections, messages=messages, idle_seconds=5, age_seconds=300)
    async with Pool(connector(smtp, **changes).connect, limits, temporary=Deferred) as pool:
        yield Sender(pool, rate)


def count(smtp: ScriptedSmtp, verb: str) -> int:
    """How often all sessions received a command."""
    return sum(line.split()[0] == verb for commands in smtp.commands for line in commands)


class Clock:
    """A script that notes the times at which a stage is reached."""

    def __init__(self, stage: Stage, action: Action | None = None) -> None:
        self.times: list[float] = []
        self._stage = stage
        self._action = action

    def __call__(self, moment: Moment) -> Action | None:
        """Note the time and return the action."""
        if moment.stage != self._stage:
            return None
        self.times.append(now())
        return self._action

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A mail server's misbehaviour by chance: the script of each step, and disturbances of all connections."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.stack.smtp_scripts import Close, Delay, Garbage, Reply, Reset, Silence, Store

if TYPE_CHECKING:
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Moment, Stage

STALL_SECONDS: Final = 0.5  # longer than the relay waits
LOSSES: Final[tuple[Action, ...]] = (
    Close(),
    Reset(),
    Silence(),
    Garbage(b"\x00\xff\r\n"),
    Garbage(b"25"),
    Garbage(b"250-half a reply\r\n"),
    Delay(STALL_SECONDS),
)
TEMPORARY: Final[tuple[Action, ...]] = (
    Reply("421 4.3.2 bye"),
    Reply("421 4.3.2 bye", close=True),
    Reply("451 4.3.0 later"),
)
REFUSALS: Final[tuple[Action, ...]] = (
    *TEMPORARY,
    Reply("550 5.1.1 no such user"),
    Reply("554 5.7.1 no", close=True),
)
LATE: Final[tuple[Action, ...]] = tuple(Store(one) for one in (*LOSSES, Reply("354 go on"), Reply("150 hm")))
STEPS: Final[dict[Stage, tuple[Action, ...]]] = {
    "greeting": LOSSES + REFUSALS,
    "ehlo": LOSSES + REFUSALS,
    "auth": (*LOSSES, *TEMPORARY),
    "mail": (*LOSSES, *REFUSALS, Delay(0.02)),
    "rcpt": (*LOSSES, *REFUSALS, Garbage(b"250 Ok\r\n250 Ok\r\n")),
    "data": (*LOSSES, *REFUSALS, Reply("250 Ok"), Garbage(b"354 go\r\n421 bye\r\n")),
    "body": (*LOSSES, *(one for one in REFUSALS if isinstance(one, Reply) and one.close)),
    "dot": (*LOSSES, *LATE, *REFUSALS, Delay(0.02), Store(Garbage(b"250 Ok\r\n421 bye\r\n"))),
    "rset": LOSSES + REFUSALS,
    "quit": LOSSES + REFUSALS,
}
"""What a server can do wrong at each step, without throttling, which slows the whole relay down.

One that accepts a mail and replies that it did not cannot be found out.
"""


ACCOUNT: Final[dict[Stage, Action]] = {
    "auth": Reply("535 5.7.8 Authentication Credentials Invalid"),
    "mail": Reply("454 Throttling failure: Daily message quota exceeded."),
}
"""Refusals of the account, which fail all requests that wait. They are rare, or nothing else would happen."""
ACCOUNT_RATE: Final = 0.002


class Chance:
    """Each step has a sequence of its own, which the seed decides."""

    def __init__(self, seed: int, rate: float) -> None:
        """Let the server misbehave with the probability `rate` at each step."""
        self.rate = rate
        self.faults: Counter[str] = Counter()
        self._sequences = {stage: random.Random(f"{seed} {stage}") for stage in (*STEPS, "all")}  # noqa: S311 - a schedule

    def script(self, moment: Moment) -> Action | None:
        """Return the server's next misbehaviour, or None."""
        chance = self._sequences.get(moment.stage)
        if chance is None:
            return None
        if moment.stage in ACCOUNT and chance.random() < ACCOUNT_RATE:
            self.faults["account"] += 1
            return ACCOUNT[moment.stage]
        if chance.random() >= self.rate:
            return None
        self.faults[moment.stage] += 1
        return chance.choice(STEPS[moment.stage])

    async def disturb(self, smtp: ScriptedSmtp, mean_seconds: float) -> None:
        """Reset or end all connections, or restart the server, again and again."""
        chance = self._sequences["all"]
        while True:
            await asyncio.sleep(chance.expovariate(1 / mean_seconds))
            kind = chance.choice(("reset", "421", "restart"))
            self.faults[kind] += 1
            if kind == "reset":
                smtp.reset_sessions()
            elif kind == "421":
                smtp.unsolicited("421 4.3.2 shutting down")
            else:
                await smtp.stop()
                await asyncio.sleep(chance.uniform(0, 0.3))
                await smtp.start()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Spaces emails evenly at a rate that may change at any time. It decides without await; the callers wait for futures.

A caller waits twice: for its turn, and then with its connection for the moment to send. So emails that waited for a
slow server are not sent together, and no connection is held idle for long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LEAD_SECONDS: Final = 0.5  # a turn begins at most so long before the email may be sent
CATCH_UP_SECONDS: Final = 0.02  # so late timers do not lower the rate
TIMER_SECONDS: Final = 0.001  # the resolution of timers


class _Ready(NamedTuple):
    moment: asyncio.Future[None]
    since: float


class SendRate:
    """The turns and the moments to send. `rate` returns the emails a second, 0 for none at present."""

    def __init__(self, rate: Callable[[], float]) -> None:
        """Ask `rate` for each email."""
        self._rate = rate
        self._last = float("-inf")  # when the last email was due
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._ready: deque[_Ready] = deque()
        self._turns = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def holds_back(self) -> bool:
        """Whether emails are sent as fast as the rate allows: then all that wait, wait for the rate."""
        rate = self._rate()
        return rate <= 0 or _now() - self._last < 2 / rate

    def change(self) -> None:
        """Use a rate that has changed at once."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        rate = self._rate()
        if rate <= 0:
            return
        due_at = [*self._send_due(1 / rate), *self._begin_turns(1 / rate)]
        if due_at:
            self._timer = asyncio.get_running_loop().call_at(min(due_at), self.change)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until this caller is one of the next to send; the context is for its connection and for `moment`."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.change()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just begun
                self._end_turn()
            raise
        try:
            yield
        finally:
            self._end_turn()

    async def moment(self) -> None:
        """Wait until the email may be sent."""
        ready = _Ready(asyncio.get_running_loop().create_future(), _now())
        self._ready.append(ready)
        self.change()
        await ready.moment

    def _end_turn(self) -> None:
        self._turns -= 1
        self.change()

    def _send_due(self, interval: float) -> list[float]:
        """Let those send whose moment has come; return the next moment."""
        now = _now()
        while self._ready:
            due_at = max(self._last + interval, self._ready[0].since)
            if self._ready[0].moment.done():  # cancelled
                self._ready.popleft()
            elif due_at > now + TIMER_SECONDS / 2:
                return [due_at]
            else:
                self._last = max(due_at, now - CATCH_UP_SECONDS)
                self._ready.popleft().moment.set_result(None)
        return []

    def _begin_turns(self, interval: float) -> list[float]:
        """Begin the turns of those that can send soon; return when the next turn may begin."""
        now = _now()
        due_at = self._last + interval
        while self._waiting:
            begins_at = max(due_at, now) + self._turns * interval - LEAD_SECONDS
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
            elif begins_at > now + TIMER_SECONDS / 2:
                return [begins_at] if due_at > now else []  # else it begins when another ends
            else:
                self._turns += 1
                self._waiting.popleft().set_result(None)
        return []


def _now() -> float:
    return asyncio.get_running_loop().time()

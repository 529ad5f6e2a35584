# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Spaces emails evenly, by turns among groups, at a rate that may change at any time.

It decides without await; the callers wait for futures. A caller waits twice: for its turn, and then with its connection
for the moment to send. So emails that waited for a slow server are not sent together, and no connection is held idle
for long.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from relay.smtp.throttle import Throttle
from relay.smtp.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = logging.getLogger(__name__)

LEAD_SECONDS: Final = 0.5  # a turn begins at most so long before the email may be sent
CATCH_UP_SECONDS: Final = 0.02  # so late timers do not lower the rate
TIMER_SECONDS: Final = 0.001  # the resolution of timers


class SendRate:
    """The turns and the moments to send, at the lower one of the allowed rate and of what the server accepts."""

    def __init__(self, allowed: Callable[[], float] | None = None) -> None:
        """Ask `allowed` for each email: emails a second, 0 for none at present; None is no limit."""
        self._allowed = allowed
        self._throttle = Throttle()
        self._throttle_end: asyncio.TimerHandle | None = None
        self._last = -math.inf  # when the last email was due
        self._waiting: Turns[asyncio.Future[None]] = Turns()
        self._ready: Turns[asyncio.Future[None]] = Turns()
        self._ready_since = -math.inf
        self._turns = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_limited(self) -> bool:
        """Whether an email needs a turn."""
        return self._allowed is not None or self._throttle.rate > 0

    @property
    def holds_back(self) -> bool:
        """Whether emails are sent as fast as the rate allows: then all that wait, wait for the rate."""
        rate = self._rate()
        return rate <= 0 or time.monotonic() < max(self._last + 2 / rate, self._throttle.resumes_at)

    @property
    def waiting(self) -> int:
        """How many callers wait for their turn."""
        return len(self._waiting)

    @property
    def throttled_rate(self) -> float:
        """The rate that the relay imposes on itself because the server refuses more; 0 if it does not."""
        return self._throttle.rate

    @property
    def generation(self) -> int:
        """To be given to `refused` with an email that begins now."""
        return self._throttle.generation

    def accepted(self) -> None:
        """Count an email that the server has accepted."""
        throttle = self._throttle
        if not throttle.rate:
            throttle.accept(time.monotonic(), is_binding=False)
            return
        throttle.accept(time.monotonic(), is_binding=len(self._waiting) + len(self._ready) > 0)
        if not throttle.rate:
            self._end_throttle()

    def refused(self, generation: int) -> None:
        """Count an email, begun in `generation`, that the server has refused because of the rate."""
        was_throttled = self._throttle.rate > 0
        self._throttle.refuse(generation, time.monotonic())
        if not self._throttle.rate:  # the limit has ended since the email began
            return
        if not was_throttled:
            log.warning("smtp.throttled", extra={"emails_a_second": round(self._throttle.rate, 1)})
        if self._throttle_end:
            self._throttle_end.cancel()
        self._throttle_end = asyncio.get_running_loop().call_at(self._throttle.ends_at, self._end_throttle)
        self.change()

    def _end_throttle(self) -> None:
        if self._throttle_end:
            self._throttle_end.cancel()
            self._throttle_end = None
        self._throttle.end()
        log.info("smtp.unthrottled")
        self.change()

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
    async def turn(self, group: str = "", *, again: bool = False, throttled: bool = False) -> AsyncIterator[None]:
        """Wait until this caller is one of the next to send; the context is for its connection and for `moment`.

        A caller that comes `again` goes before those of its group, and before all if its email was `throttled`.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.join(group, turn, again=again, in_vain=throttled)
        self._begin(self._waiting)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.leave(group, turn)
            if not turn.cancelled():  # it had just begun
                self._end_turn()
            raise
        try:
            yield
        finally:
            self._end_turn()

    async def moment(self, group: str = "", *, again: bool = False, throttled: bool = False) -> None:
        """Wait until the email may be sent; the order is as for `turn`."""
        moment = asyncio.get_running_loop().create_future()
        if not self._ready:
            self._ready_since = time.monotonic()
        self._ready.join(group, moment, again=again, in_vain=throttled)
        self._begin(self._ready)
        try:
            await moment
        except asyncio.CancelledError:
            self._ready.leave(group, moment)
            raise

    def _begin(self, line: Turns[asyncio.Future[None]]) -> None:
        """Decide at once for the first one of a line; the others are woken by the timer, or when a turn ends."""
        if len(line) == 1 or not self._timer:
            self.change()

    def _end_turn(self) -> None:
        self._turns -= 1
        self.change()

    def _rate(self) -> float:
        allowed = self._allowed() if self._allowed else math.inf
        return min(allowed, self._throttle.rate or math.inf)

    def _due_at(self, interval: float) -> float:
        return max(self._last + interval, self._throttle.resumes_at)

    def _send_due(self, interval: float) -> list[float]:
        """Let those send whose moment has come; return the next moment."""
        now = time.monotonic()
        while self._ready:
            due_at = max(self._due_at(interval), self._ready_since)
            if due_at > now + TIMER_SECONDS / 2:
                return [due_at]
            moment = self._ready.next(_is_waiting)
            if not moment:  # the others are cancelled, and will leave
                break
            self._last = max(due_at, now - CATCH_UP_SECONDS)
            moment.set_result(None)
        return []

    def _begin_turns(self, interval: float) -> list[float]:
        """Begin the turns of those that can send soon; return when the next turn may begin."""
        now = time.monotonic()
        due_at = self._due_at(interval)
        while self._waiting:
            begins_at = max(due_at, now) + self._turns * interval - LEAD_SECONDS
            if begins_at > now + TIMER_SECONDS / 2:
                return [begins_at] if due_at > now else []  # else it begins when another ends
            turn = self._waiting.next(_is_waiting)
            if not turn:  # the others are cancelled, and will leave
                break
            self._turns += 1
            turn.set_result(None)
        return []


def _is_waiting(future: asyncio.Future[None]) -> bool:
    return not future.done()

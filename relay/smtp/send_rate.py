# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How many emails a second the process sends: the lower one of the allowed rate and of what the server accepts."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from relay.smtp.throttle import Throttle
from relay.smtp.turns import Turns

log = logging.getLogger(__name__)

LATE_SECONDS: Final = 0.01  # a timer that is late by less costs no email


class SendRate:
    """Sends are spaced evenly, without bursts. Those that wait go by turns among groups."""

    def __init__(self, emails_a_second: float = 0.0) -> None:
        """Allow this rate; 0 is no limit."""
        self._allowed = emails_a_second
        self._throttle = Throttle()
        self._turns: Turns[asyncio.Future[None]] = Turns()
        self._last = -math.inf  # the time from which the next send is spaced
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    @property
    def is_limited(self) -> bool:
        """Whether a send needs `take_turn`."""
        return self._allowed > 0 or self._throttle.rate > 0

    @property
    def throttled_rate(self) -> float:
        """The rate that the relay imposes on itself because the server refuses more; 0 if it does not."""
        return self._throttle.rate

    @property
    def generation(self) -> int:
        """To be given to `refused` with an email that begins now."""
        return self._throttle.generation

    @property
    def waiting(self) -> int:
        """How many sends wait."""
        return len(self._turns)

    def set_rate(self, emails_a_second: float) -> None:
        """Allow another rate from now on, also for sends that wait; 0 is no limit."""
        self._allowed = emails_a_second
        self._give_turns()

    async def take_turn(self, group: str, *, again: bool = False) -> None:
        """Return when an email of this group may be sent; one that waits `again` comes before those of its group."""
        if not self._turns and self._is_due():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.join(group, turn, again=again)
        if not self._timer:
            self._wake_later()
        try:
            await turn
        except asyncio.CancelledError:
            self._turns.leave(group, turn)
            raise

    def accepted(self) -> None:
        """Count an email that the server has accepted."""
        was_throttled = self._throttle.rate > 0
        self._throttle.accept(_now(), is_binding=len(self._turns) > 0)
        if was_throttled and not self._throttle.rate:
            self._end_throttle()

    def refused(self, generation: int) -> None:
        """Count an email, begun in `generation`, that the server has refused because of the rate."""
        was_throttled = self._throttle.rate > 0
        self._throttle.refuse(generation, _now())
        if not was_throttled:
            log.warning("smtp.throttled", extra={"emails_a_second": round(self._throttle.rate, 1)})
        if self._end:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_at(self._throttle.ends_at, self._end_throttle)
        self._wake_later()

    def _end_throttle(self) -> None:
        if self._end:
            self._end.cancel()
            self._end = None
        self._throttle.end()
        log.info("smtp.unthrottled")
        self._give_turns()

    def _rate(self) -> float:
        """Return the rate that counts now; 0 is no limit."""
        rates = [rate for rate in (self._allowed, self._throttle.rate) if rate]
        return min(rates, default=0.0)

    def _due(self) -> float:
        rate = self._rate()
        return max(self._last + 1 / rate if rate else -math.inf, self._throttle.resumes_at)

    def _is_due(self) -> bool:
        """Return whether an email may be sent now; if so, the next one is spaced from it."""
        now, due = _now(), self._due()
        if now < due:
            return False
        self._last = max(due, now - LATE_SECONDS)
        return True

    def _give_turns(self) -> None:
        """Let those go whose time has come."""
        while self._turns and self._is_due():
            turn = self._turns.next(_is_waiting)
            if turn:
                turn.set_result(None)
            else:  # the rest was cancelled, and will leave
                break
        self._wake_later()

    def _wake_later(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._turns:
            self._timer = asyncio.get_running_loop().call_at(self._due(), self._give_turns)


def _is_waiting(turn: asyncio.Future[None]) -> bool:
    return not turn.done()


def _now() -> float:
    return asyncio.get_running_loop().time()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Time limits for many short waits, with one timer for all of them.

`asyncio.timeout` sets and cancels a timer for each block, which takes 6 us instead of 1 us.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class TimeLimits:
    """The limits of one owner. The timer is set for the earliest of them, and is not cancelled when that block ends."""

    def __init__(self) -> None:
        """Begin without limits."""
        self.loop = asyncio.get_running_loop()
        self._running: set[_Block] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = math.inf

    def until(self, ends_at: float) -> _Block:
        """Return a context whose block raises TimeoutError at this time of `time.monotonic`."""
        return _Block(self, ends_at)

    def add(self, block: _Block) -> None:
        """Watch a block that begins."""
        self._running.add(block)
        if block.ends_at < self._due_at:
            self._set_timer(block.ends_at)

    def remove(self, block: _Block) -> None:
        """Forget a block that ends."""
        self._running.discard(block)

    def _set_timer(self, due_at: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._due_at = due_at
        self._timer = self.loop.call_at(due_at, self._end_due)

    def _end_due(self) -> None:
        now = max(self._due_at, time.monotonic())  # a timer may come a moment early
        self._timer, self._due_at = None, math.inf
        for block in [block for block in self._running if block.ends_at <= now]:
            self._running.remove(block)
            block.end()
        if self._running:
            self._set_timer(min(block.ends_at for block in self._running))


class _Block:
    """The context of one block, to be entered once."""

    __slots__ = ("_cancellations", "_has_expired", "_limits", "_task", "ends_at")

    def __init__(self, limits: TimeLimits, ends_at: float) -> None:
        self._limits = limits
        self.ends_at = ends_at
        self._has_expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._limits.loop)  # to find the loop takes a system call
        assert task, "in a task"
        self._task = task
        self._cancellations = task.cancelling()
        self._limits.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not self._has_expired:
            self._limits.remove(self)
        elif self._task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end(self) -> None:
        """Cancel the task, since its time is over."""
        self._has_expired = True
        self._task.cancel()

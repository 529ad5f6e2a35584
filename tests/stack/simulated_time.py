# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An event loop whose clock jumps to the next timer, so that minutes of waiting take milliseconds. Without sockets."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING, TypeVar
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

T = TypeVar("T")

RESOLUTION_SECONDS = 1e-9


class _Clock(selectors.DefaultSelector):
    """Lets the time pass that the loop would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will happen any more")
        if timeout > 0:
            self.now += timeout + RESOLUTION_SECONDS
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: _Clock) -> None:
        super().__init__(clock)
        self._simulated = clock

    def time(self) -> float:
        return self._simulated.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in simulated time, which begins with 0; `time.monotonic` and the loop return the same."""
    clock = _Clock()
    with (
        asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner,
        patch.object(time, "monotonic", lambda: clock.now),
    ):
        return runner.run(work)

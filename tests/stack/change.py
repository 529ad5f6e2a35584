# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Wait for a state that is announced: each change wakes the waiters, and they look again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Change:
    """Wakes all waiters at each change."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake every waiter."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next change."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def wait_until(self, holds: Callable[[], bool], timeout: float, what: Callable[[], str]) -> None:
        """Return when `holds` is true; `what` is the text of the TimeoutError."""
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    await self.wait()
        except TimeoutError:
            message = f"after {timeout} s: {what()}"
            raise TimeoutError(message) from None

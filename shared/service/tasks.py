# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Keeps references to running tasks (the event loop does not, so they could be collected) and logs their failures."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger(__name__)


class Tasks:
    """The running tasks of one owner."""

    def __init__(self) -> None:
        """Begin without tasks."""
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many are running."""
        return len(self._running)

    def start(
        self, work: Coroutine[object, object, None], at_end: Callable[[], object] | None = None
    ) -> asyncio.Task[None]:
        """Run `work` as a task; an error that it does not handle is logged.

        `at_end` is called however the task ends. A `finally` in `work` is not: a task that is cancelled before it ran
        never enters it.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(partial(self._finish, at_end))
        return task

    async def wait(self, timeout_seconds: float | None = None, *, grace_seconds: float = 0.0) -> None:
        """Wait until the tasks that run now have ended, or for the timeout; if cancelled meanwhile, `end` them."""
        running = set(self._running)
        if not running:
            return
        try:
            await asyncio.wait(running, timeout=timeout_seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # a task that was just started enters its `finally`, such as one that sends a reply
            await self.end(grace_seconds)
            raise

    async def end(self, grace_seconds: float) -> None:
        """Wait until the tasks that run now have ended; cancel those that take longer than `grace_seconds`."""
        running = set(self._running)
        if not running:
            return
        try:
            await asyncio.wait(running, timeout=grace_seconds)
        finally:
            self.cancel()
            await asyncio.wait(running)

    def cancel(self) -> None:
        """Cancel the running tasks."""
        for task in self._running:
            task.cancel()

    def _finish(self, at_end: Callable[[], object] | None, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("task.failed", exc_info=error)
        if at_end:
            at_end()

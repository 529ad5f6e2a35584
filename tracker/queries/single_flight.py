# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Runs one piece of work of a key at a time. Callers that come meanwhile share the next run.

The result of a run that began before the call may be outdated for its caller, so it is not shared with it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from shared.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The runs of all keys. Each is a task of its own, so that a caller that is cancelled interrupts no other one."""

    def __init__(self) -> None:
        """Begin without runs."""
        self._running: dict[str, asyncio.Task[T]] = {}
        self._next: dict[str, asyncio.Task[T]] = {}

    def __contains__(self, key: str) -> bool:
        """Return whether work of a key is running."""
        return key in self._running

    def __len__(self) -> int:
        """Return of how many keys work is running."""
        return len(self._running)

    async def run(self, key: str, work: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return the result of a run of `work` that begins after this call, or raise its error.

        Raises:
            StoreUnavailable: the run was cancelled.
        """
        task = self._next.get(key) or self._start(key, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller and caller.cancelling():
                raise
            raise StoreUnavailable("the work was interrupted") from None

    def cancel(self) -> None:
        """Cancel all runs."""
        for task in [*self._running.values(), *self._next.values()]:
            task.cancel()

    def _start(self, key: str, work: Callable[[], Coroutine[object, object, T]]) -> asyncio.Task[T]:
        before = self._running.get(key)
        task = asyncio.get_running_loop().create_task(_after(before, work) if before else work())
        (self._next if before else self._running)[key] = task
        task.add_done_callback(partial(self._finish, key))
        return task

    def _finish(self, key: str, task: asyncio.Task[T]) -> None:
        """Make way for the next run, however this one ended."""
        if not task.cancelled():
            task.exception()  # without callers, asyncio would log that it was not retrieved
        if self._next.get(key) is task:
            del self._next[key]
            return
        del self._running[key]
        if following := self._next.pop(key, None):
            self._running[key] = following


async def _after(before: asyncio.Task[T], work: Callable[[], Coroutine[object, object, T]]) -> T:
    await asyncio.wait({before})
    return await work()

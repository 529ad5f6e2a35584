# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A task that ends, however it does, is no longer counted, and its owner is called."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def return_at_once() -> None:
    """Do nothing."""


async def fail() -> None:
    """Raise an error."""
    raise ZeroDivisionError


async def wait() -> None:
    """Wait to be cancelled."""
    await asyncio.Event().wait()


async def before_it_ran(task: asyncio.Task[None]) -> None:
    """Cancel a task that has not run yet."""
    task.cancel()


async def while_it_waits(task: asyncio.Task[None]) -> None:
    """Cancel a task that has run."""
    await asyncio.sleep(0)
    task.cancel()


async def never(_: asyncio.Task[None]) -> None:
    """Do not cancel it."""


@pytest.mark.parametrize(
    ("work", "cancel"),
    [(return_at_once, never), (fail, never), (wait, before_it_ran), (wait, while_it_waits)],
    ids=["returns", "fails", "is cancelled before it ran", "is cancelled"],
)
async def test_at_end_is_called_however_a_task_ends(
    work: Callable[[], Awaitable[None]], cancel: Callable[[asyncio.Task[None]], Awaitable[None]]
) -> None:
    tasks, ends = Tasks(), []
    task = tasks.start(work(), at_end=lambda: ends.append(len(tasks)))  # type: ignore[arg-type] # a coroutine
    await cancel(task)
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert ends == [0]


async def test_a_wait_that_is_cancelled_lets_a_new_task_enter_its_finally() -> None:
    replies = []

    async def reply_in_any_case() -> None:
        try:
            await wait()
        finally:
            replies.append("reply")

    tasks = Tasks()

    async def stop() -> None:
        tasks.start(wait())
        await tasks.wait()

    stopping = asyncio.create_task(stop())
    await asyncio.sleep(0)
    stopping.cancel()
    tasks.start(reply_in_any_case())
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (replies, len(tasks)) == (["reply"], 0)

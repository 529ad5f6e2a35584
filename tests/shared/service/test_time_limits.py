# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Limits behave like `asyncio.timeout_at`."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from shared.service.time_limits import TimeLimits

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = 60.0


def now() -> float:
    """Return the loop time."""
    return asyncio.get_running_loop().time()


async def test_a_block_that_ends_in_time_raises_nothing() -> None:
    limits = TimeLimits()
    for _ in range(3):
        with limits.until(now() + LONG):
            await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task
    assert not task.cancelling()


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.01])
async def test_a_block_raises_a_timeout_when_its_time_is_over(seconds: float) -> None:
    limits = TimeLimits()
    with pytest.raises(TimeoutError), limits.until(now() + seconds):
        await asyncio.Event().wait()
    await asyncio.sleep(0)  # the task is not cancelled any more


async def test_each_of_many_blocks_ends_at_its_own_time() -> None:
    limits = TimeLimits()
    ended: list[int] = []
    began = now()

    async def wait(number: int) -> None:
        try:
            with limits.until(began + number / 100):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(number)
            assert now() >= began + number / 100 - 0.001

    async with asyncio.TaskGroup() as tasks:
        for number in (3, 1, 5, 2, 4):
            tasks.create_task(wait(number))
    assert all(one < other for one, other in pairwise(ended))
    assert len(ended) == 5


async def test_a_later_block_has_its_full_time_after_an_earlier_one_has_ended() -> None:
    limits = TimeLimits()
    with limits.until(now() + 0.01):
        await asyncio.sleep(0)
    with limits.until(now() + LONG):
        await asyncio.sleep(0.03)


async def test_an_inner_block_leaves_the_outer_one_its_own_limit() -> None:
    limits = TimeLimits()
    with pytest.raises(TimeoutError), limits.until(now() + 0.02):
        with pytest.raises(TimeoutError), limits.until(now() + 0.01):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


def cancelled_before(task: asyncio.Task[None]) -> None:
    """Cancel the task before its time is over."""
    task.cancel()


def cancelled_as_well(task: asyncio.Task[None]) -> None:
    """Cancel the task in the same turn of the loop in which its time is over."""
    asyncio.get_running_loop().call_at(now() + 0.01, task.cancel)


@pytest.mark.parametrize("cancel", [cancelled_before, cancelled_as_well], ids=lambda one: one.__name__)
async def test_a_cancellation_from_outside_is_not_taken_for_a_timeout(
    cancel: Callable[[asyncio.Task[None]], None],
) -> None:
    limits = TimeLimits()

    async def wait() -> None:
        with limits.until(now() + 0.01):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    cancel(task)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_is_raised_unchanged() -> None:
    limits = TimeLimits()
    with pytest.raises(KeyError), limits.until(now() + LONG):
        raise KeyError

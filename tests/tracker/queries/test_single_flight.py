# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Work of one key runs once at a time, and the next run comes however one ended."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import StoreUnavailable
from tracker.queries.single_flight import SingleFlight


class Work:
    """Work that ends when the test lets it; the result is the number of the run."""

    def __init__(self) -> None:
        self.ends: list[asyncio.Future[None]] = []

    async def __call__(self) -> int:
        """Return the number of the run."""
        number = len(self.ends)
        self.ends.append(asyncio.get_running_loop().create_future())
        await self.ends[number]
        return number


async def turn() -> None:
    """Let each task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def started(flight: SingleFlight[int], work: Work, callers: int) -> list[asyncio.Task[int]]:
    """Start callers of one key."""
    tasks = [asyncio.create_task(flight.run("k", work)) for _ in range(callers)]
    await turn()
    return tasks


async def test_callers_that_come_during_a_run_share_the_next_one() -> None:
    flight, work = SingleFlight[int](), Work()
    [first] = await started(flight, work, 1)
    others = await started(flight, work, 3)
    assert len(work.ends) == 1
    work.ends[0].set_result(None)
    assert await first == 0
    await turn()
    [last] = await started(flight, work, 1)
    work.ends[1].set_result(None)
    assert await asyncio.gather(*others) == [1, 1, 1]
    await turn()
    work.ends[2].set_result(None)
    assert await last == 2
    assert "k" not in flight


async def test_runs_of_different_keys_do_not_wait_for_each_other() -> None:
    flight, work = SingleFlight[int](), Work()
    [first] = await started(flight, work, 1)
    other = asyncio.create_task(flight.run("another key", work))
    await turn()
    work.ends[1].set_result(None)
    assert await other == 1
    assert not first.done()
    work.ends[0].set_result(None)
    assert await first == 0


@pytest.mark.parametrize("error", [ValueError(), OSError(), asyncio.CancelledError()])
async def test_a_run_that_fails_is_followed_by_the_next_one(error: BaseException) -> None:
    flight, work = SingleFlight[int](), Work()
    [first] = await started(flight, work, 1)
    [second] = await started(flight, work, 1)
    work.ends[0].set_exception(error)
    with pytest.raises(StoreUnavailable if isinstance(error, asyncio.CancelledError) else type(error)):
        await first
    await turn()
    work.ends[1].set_result(None)
    assert await second == 1
    assert "k" not in flight


async def test_a_cancelled_caller_cancels_no_run() -> None:
    flight, work = SingleFlight[int](), Work()
    [first] = await started(flight, work, 1)
    second, third = await started(flight, work, 2)
    first.cancel()
    second.cancel()
    await turn()
    assert (first.cancelled(), second.cancelled()) == (True, True)
    work.ends[0].set_result(None)
    await turn()
    work.ends[1].set_result(None)
    assert await third == 1


async def test_after_cancel_the_callers_get_an_error_and_nothing_is_left() -> None:
    flight, work = SingleFlight[int](), Work()
    callers = await started(flight, work, 1) + await started(flight, work, 2)
    flight.cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(one) for one in results] == [StoreUnavailable] * 3
    await turn()
    assert len(flight) == 0
    later = asyncio.create_task(flight.run("k", work))
    await turn()
    work.ends[-1].set_result(None)
    assert await later == 1

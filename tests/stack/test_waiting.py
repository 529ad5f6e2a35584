# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The wait for a state."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.stack.waiting import until


async def test_the_first_value_that_holds_is_returned() -> None:
    numbers = itertools.count()

    async def look() -> int:
        return next(numbers)

    assert await until(lambda: next(numbers), lambda number: number > 3) == 4
    assert await until(look) == 5


async def test_a_timeout_shows_the_source_of_the_call_and_the_last_value() -> None:
    with pytest.raises(TimeoutError, match=r"(?s)after 0.01 s: .*\[1, 2\].*last seen: \[1, 2\]"):
        await until(lambda: [1, 2], lambda seen: len(seen) == 3, timeout=0.01)


async def test_a_look_that_hangs_ends_at_the_timeout() -> None:
    with pytest.raises(TimeoutError, match="last seen: 'nothing yet'"):
        await until(asyncio.Event().wait, timeout=0.01)


async def test_a_timeout_of_the_look_itself_is_raised_unchanged() -> None:
    async def look() -> bool:
        raise TimeoutError("no reply")

    with pytest.raises(TimeoutError, match=r"^no reply$"):
        await until(look)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Waiting for a state of something that does not report its changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LOOK_AGAIN = 0.005


async def until(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return as soon as it holds."""
    async with asyncio.timeout(timeout):
        while not holds():
            await asyncio.sleep(_LOOK_AGAIN)


async def until_equal(look: Callable[[], Awaitable[object]], wanted: object, timeout: float = 10.0) -> None:
    """Return as soon as `look` returns the wanted value."""
    seen: object = None
    try:
        async with asyncio.timeout(timeout):
            while (seen := await look()) != wanted:
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        message = f"after {timeout} s: {seen!r}, not {wanted!r}"
        raise TimeoutError(message) from None

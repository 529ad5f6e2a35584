# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Waiting for a state of something that tells nobody when it changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_LOOK_AGAIN = 0.02


async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], bool] = bool, timeout: float = 20.0) -> T:
    """Look again and again, and return what was seen as soon as it holds; the TimeoutError says what was seen last."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not holds(seen := await look()):
        if asyncio.get_running_loop().time() > deadline:
            message = f"after {timeout} s: {seen!r:.2000}"
            raise TimeoutError(message)
        await asyncio.sleep(_LOOK_AGAIN)
    return seen

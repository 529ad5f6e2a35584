# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Wait for a state that nothing announces, by looking at it repeatedly; `change.py` waits for one that is announced."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_LOOK_AGAIN_SECONDS = 0.005


@overload
async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], object] = ..., *, timeout: float = ...) -> T: ...
@overload
async def until(look: Callable[[], T], holds: Callable[[T], object] = ..., *, timeout: float = ...) -> T: ...
async def until(
    look: Callable[[], Awaitable[T] | T], holds: Callable[[T], object] = bool, *, timeout: float = 30.0
) -> T:
    """Call `look` until `holds` is true of what it returns, and return that.

    `look` may be async. Without `holds` the wait ends at the first true value. An error of either one ends the wait.

    Raises:
        TimeoutError: After `timeout` seconds; the message has the source of the call and the last value.
    """
    seen: object = "nothing yet"
    try:
        async with asyncio.timeout(timeout) as bound:
            while True:
                found = look()
                seen = await found if inspect.isawaitable(found) else found
                if holds(seen):
                    return seen
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    except TimeoutError:
        if not bound.expired():  # it is an error of `look`
            raise
        message = f"after {timeout} s: {_source(look)}\nlast seen: {seen!r:.2000}"
        raise TimeoutError(message) from None


def _source(look: Callable[[], object]) -> str:
    try:
        return inspect.getsource(look).strip()
    except (OSError, TypeError):  # a builtin, or code without a file
        return repr(look)

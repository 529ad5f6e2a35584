# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The callers that wait for a connection, in the order of their requests."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C")


class _Caller(NamedTuple, Generic[C]):
    waiter: asyncio.Future[C]
    avoided: C | None


class WaitingLine(Generic[C]):
    """Futures of connections. A caller may avoid the connection on which the server refused its email."""

    def __init__(self) -> None:
        """Begin without callers."""
        self._callers: deque[_Caller[C]] = deque()

    def __len__(self) -> int:
        """Return how many callers wait."""
        return len(self._callers)

    def join(self, avoided: C | None) -> asyncio.Future[C]:
        """Add a caller at the end, and return the future that it has to wait for."""
        waiter: asyncio.Future[C] = asyncio.get_running_loop().create_future()
        self._callers.append(_Caller(waiter, avoided))
        return waiter

    def leave(self, waiter: asyncio.Future[C]) -> None:
        """Remove a caller that does not wait any more."""
        self._callers = deque(caller for caller in self._callers if caller.waiter is not waiter)

    def first(self, connection: C | None = None) -> asyncio.Future[C] | None:
        """Remove and return the first caller, without regard to those that avoid `connection`."""
        passed_over: list[_Caller[C]] = []
        found = None
        while self._callers and found is None:
            caller = self._callers.popleft()
            if caller.waiter.done():
                continue
            if connection is not None and caller.avoided is connection:
                passed_over.append(caller)
            else:
                found = caller.waiter
        self._callers.extendleft(reversed(passed_over))
        return found

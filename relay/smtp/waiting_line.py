# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The callers that wait for a connection, by turns among groups."""

from __future__ import annotations

import asyncio
from typing import Generic, NamedTuple, TypeVar

from relay.smtp.turns import Turns

C = TypeVar("C")


class _Caller(NamedTuple, Generic[C]):
    group: str
    avoided: C | None


class WaitingLine(Generic[C]):
    """Futures of connections. A caller may avoid the connection on which the server refused its email."""

    def __init__(self) -> None:
        """Begin without callers."""
        self._turns: Turns[asyncio.Future[C]] = Turns()
        self._callers: dict[asyncio.Future[C], _Caller[C]] = {}

    def __len__(self) -> int:
        """Return how many callers wait."""
        return len(self._turns)

    def join(self, group: str, avoided: C | None, *, again: bool = False) -> asyncio.Future[C]:
        """Add a caller, before its group if it waits `again`; return the future that it has to wait for."""
        waiter: asyncio.Future[C] = asyncio.get_running_loop().create_future()
        self._turns.join(group, waiter, again=again)
        self._callers[waiter] = _Caller(group, avoided)
        return waiter

    def leave(self, waiter: asyncio.Future[C]) -> None:
        """Remove a caller that does not wait any more."""
        if caller := self._callers.pop(waiter, None):
            self._turns.leave(caller.group, waiter)

    def first(self, connection: C | None = None) -> asyncio.Future[C] | None:
        """Remove and return the caller whose turn it is, without regard to those that avoid `connection`."""

        def suits(waiter: asyncio.Future[C]) -> bool:
            return not waiter.done() and (connection is None or self._callers[waiter].avoided is not connection)

        found = self._turns.next(suits)
        if found:
            del self._callers[found]
        return found

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A server for pool tests: the test opens and closes its connections. Asserts nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from relay.smtp.pool import PoolLimits

if TYPE_CHECKING:
    from collections.abc import Coroutine


LONG = 3600.0
SHORT = 0.05


class RefusedError(Exception):
    """An opening that failed."""


class AccountRefusedError(Exception):
    """A failure of an opening that concerns all callers."""


class Connection:
    """A connection that the pool lends."""

    def __init__(self, server: Server) -> None:
        self.transactions = 0
        self.refusals = 0
        self.is_proven = True
        self.is_usable = True
        self._server = server

    async def quit(self) -> None:
        """Close, as slowly as the test wants."""
        self._server.quitting.add(self)
        if self._server.closes_slowly:
            await self._server.later(self._server.closings)
        self._server.quitting.discard(self)
        self._server.open.discard(self)
        self.is_usable = False


class Server:
    """Counts its connections; opens them at once, or when the test decides."""

    def __init__(self, *, opens_slowly: bool = False, closes_slowly: bool = False) -> None:
        self.opens_slowly = opens_slowly
        self.closes_slowly = closes_slowly
        self.open: set[Connection] = set()
        self.quitting: set[Connection] = set()
        self.most = 0
        self.attempts = 0
        self.openings: list[asyncio.Future[None]] = []
        self.closings: list[asyncio.Future[None]] = []

    async def connect(self) -> Connection:
        """Open one."""
        self.attempts += 1
        if self.opens_slowly:
            await self.later(self.openings)
        connection = Connection(self)
        self.open.add(connection)
        self.most = max(self.most, len(self.open))
        return connection

    def close_all(self) -> None:
        """Finish every close that waits."""
        for closing in self.closings:
            closing.set_result(None)

    async def later(self, queue: list[asyncio.Future[None]]) -> None:
        """Wait for the test."""
        future = asyncio.get_running_loop().create_future()
        queue.append(future)
        try:
            await future
        finally:
            queue.remove(future)


def limits(connections: int = 2, **changes: Any) -> PoolLimits:
    """High limits, except those that are named."""
    return PoolLimits(connections, messages=1000, idle_seconds=LONG, age_seconds=LONG)._replace(**changes)


def task(coroutine: Coroutine[Any, Any, Connection]) -> asyncio.Task[Connection]:
    return asyncio.create_task(coroutine)


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(8):
        await asyncio.sleep(0)

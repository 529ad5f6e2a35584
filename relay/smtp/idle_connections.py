# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The connections of a pool that are kept and not in use. Each is retired when it was idle for too long."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

C = TypeVar("C")


class _Idle(NamedTuple, Generic[C]):
    connection: C
    since: float


class IdleConnections(Generic[C]):
    """The connection that was used last is used next."""

    def __init__(self, idle_seconds: float, is_good: Callable[[C], bool], retire: Callable[[C], None]) -> None:
        """Call `retire` with each connection that was idle for `idle_seconds`, or is not good any more."""
        self._idle_seconds = idle_seconds
        self._is_good = is_good
        self._retire = retire
        self._all: list[_Idle[C]] = []  # the next one is at the end
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        """Iterate over the connections."""
        return (one.connection for one in self._all)

    def keep(self, connection: C, *, use_last: bool = False) -> None:
        """Add a connection; with `use_last` all others are used before it."""
        self._all.insert(0 if use_last else len(self._all), _Idle(connection, time.monotonic()))
        self._sweep_later()

    def take(self, avoided: C | None = None) -> C | None:
        """Return the next good connection except `avoided`, if there is one."""
        passed_over = None
        taken = None
        while self._all and not taken:
            last = self._all.pop()
            if last.connection is avoided:
                passed_over = last
            elif self._is_good(last.connection) and time.monotonic() - last.since < self._idle_seconds:
                taken = last.connection
            else:
                self._retire(last.connection)
        if passed_over:
            self._all.insert(0, passed_over)
        return taken

    def retire_one(self) -> None:
        """Retire the connection that would be used last."""
        self._retire(self._all.pop(0).connection)

    def retire_all(self) -> None:
        """Retire each of them."""
        if self._sweep:
            self._sweep.cancel()
        while self._all:
            self._retire(self._all.pop().connection)

    def _sweep_later(self) -> None:
        if self._sweep is None and self._all:
            due = min(one.since for one in self._all) + self._idle_seconds
            self._sweep = asyncio.get_running_loop().call_at(due, self._retire_old)

    def _retire_old(self) -> None:
        self._sweep = None
        oldest = time.monotonic() - self._idle_seconds
        old = [one for one in self._all if one.since <= oldest]
        self._all = [one for one in self._all if one.since > oldest]
        for one in old:
            self._retire(one.connection)
        self._sweep_later()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A bounded pool of kept connections, independent of SMTP. It decides without await, then acts in tasks of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from shared.service.tasks import Tasks
from shared.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OPENINGS_UNTIL_ONE_SUCCEEDS: Final = 2  # so that a burst does not overload a server that refuses connections
CLOSE_SECONDS: Final = 2.0


class Poolable(Protocol):
    """The interface of a connection that the pool needs."""

    transactions: int

    @property
    def is_usable(self) -> bool: ...  # noqa: D102

    async def quit(self) -> None: ...  # noqa: D102


C = TypeVar("C", bound=Poolable)


class PoolLimits(NamedTuple):
    """How many connections, and how much each of them may do before it is closed."""

    connections: int
    messages: int
    idle_seconds: float
    age_seconds: float


class PoolState(NamedTuple):
    """How many connections are in each state; `waiting` counts the callers that wait for one."""

    leased: int
    idle: int
    opening: int
    closing: int
    waiting: int


class _Parked(NamedTuple, Generic[C]):
    connection: C
    since: float


class Pool(Generic[C]):
    """Lends connections in the order of the requests; opens them on demand up to the limit, in tasks of their own.

    The first waiting caller gets the first free connection, kept or new: a slow handshake delays no other caller.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        limits: PoolLimits,
        *,
        errors_for_all: type[Exception] | tuple[()] = (),
    ) -> None:
        """Open with `connect`. An error goes to the first waiting caller, one of `errors_for_all` to all of them."""
        self._connect = connect
        self._limits = limits
        self._errors_for_all = errors_for_all
        self._parked: list[_Parked[C]] = []  # the connection used last is at the end, and is used next
        self._opened_at: dict[C, float] = {}
        self._waiting: deque[asyncio.Future[C]] = deque()
        self._opening = Tasks()
        self._being_opened = 0
        self._closing = Tasks()
        self._being_closed = 0
        self._is_accepted = False
        self._sweep: asyncio.TimerHandle | None = None
        self.waits = Histogram()
        self.unopened = 0

    def __repr__(self) -> str:
        """Show the state, for logs and tests."""
        return f"<Pool {', '.join(f'{count} {state}' for state, count in self.state()._asdict().items())}>"

    def state(self) -> PoolState:
        """Count the connections in each state, and the callers that wait for one."""
        idle = len(self._parked)
        return PoolState(
            leased=len(self._opened_at) - idle,
            idle=idle,
            opening=self._being_opened,
            closing=self._being_closed,
            waiting=len(self._waiting),
        )

    async def __aenter__(self) -> Self:
        """Open nothing yet: connections are opened on demand."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection; servers get a limited time to answer QUIT."""
        if self._sweep:
            self._sweep.cancel()
        self._limits = self._limits._replace(connections=0, messages=0)  # open and keep none from now on
        self._opening.cancel()
        while self._parked:
            self._retire(self._parked.pop().connection)
        await self._closing.wait(CLOSE_SECONDS)

    def take(self) -> C | None:
        """Return an idle connection, if there is one; the caller has it until `release`."""
        while self._parked:
            connection, since = self._parked.pop()
            if self._is_good(connection) and _now() - since < self._limits.idle_seconds:
                return connection
            self._retire(connection)
        return None

    async def acquire(self) -> C:
        """Return a connection as soon as one is free; the caller has it until `release`.

        Raises:
            Exception: the error of `connect`.
        """
        if connection := self.take():
            return connection
        waiter: asyncio.Future[C] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._open_more()
        began = _now()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.release(waiter.result())
            raise
        finally:
            self.waits.observe(_now() - began)
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def release(self, connection: C) -> None:
        """Take a connection back, usable or not."""
        if not self._is_good(connection):
            self._retire(connection)
        else:
            self._pass_on(connection)

    def _is_good(self, connection: C) -> bool:
        return (
            connection.is_usable
            and connection.transactions < self._limits.messages
            and _now() - self._opened_at[connection] < self._limits.age_seconds
        )

    def _pass_on(self, connection: C) -> None:
        waiter = self._first_waiting()
        if waiter:
            waiter.set_result(connection)
            return
        self._parked.append(_Parked(connection, _now()))
        self._sweep_later()

    def _first_waiting(self) -> asyncio.Future[C] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    def _open_more(self) -> None:
        at_once = self._limits.connections if self._is_accepted else OPENINGS_UNTIL_ONE_SUCCEEDS
        while (
            self._being_opened < min(len(self._waiting), at_once)
            and self._being_opened + len(self._opened_at) + self._being_closed < self._limits.connections
        ):
            self._being_opened += 1
            self._opening.start(self._open())

    async def _open(self) -> None:
        try:
            connection = await self._connect()
        except Exception as error:  # noqa: BLE001 - for the caller that waits
            self._is_accepted = False
            self._being_opened -= 1
            self.unopened += 1
            self._fail(error)
        else:
            self._is_accepted = True
            self._being_opened -= 1
            self._opened_at[connection] = _now()
            self._pass_on(connection)
        self._open_more()

    def _fail(self, error: Exception) -> None:
        """Fail the first waiting caller, or all of them if no connection is left that the others could get."""
        is_for_all = not self._opened_at or isinstance(error, self._errors_for_all)
        while waiter := self._first_waiting():
            waiter.set_exception(error)
            if not is_for_all:
                return

    def _retire(self, connection: C) -> None:
        del self._opened_at[connection]
        self._being_closed += 1
        self._closing.start(self._close(connection))

    async def _close(self, connection: C) -> None:
        """Close, and only then open another: the server limits connections too."""
        try:
            await connection.quit()
        finally:
            self._being_closed -= 1
            self._open_more()

    def _sweep_later(self) -> None:
        if self._sweep is None and self._parked:
            due = self._parked[0].since + self._limits.idle_seconds
            self._sweep = asyncio.get_running_loop().call_at(due, self._retire_idle)

    def _retire_idle(self) -> None:
        self._sweep = None
        oldest = _now() - self._limits.idle_seconds
        idle = [parked for parked in self._parked if parked.since <= oldest]
        self._parked = [parked for parked in self._parked if parked.since > oldest]
        for parked in idle:
            self._retire(parked.connection)
        self._sweep_later()


def _now() -> float:
    return asyncio.get_running_loop().time()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A bounded pool of kept connections, independent of SMTP. It decides without await, then acts in tasks of its own."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from relay.smtp.idle_connections import IdleConnections
from relay.smtp.pace import LONGEST_PAUSE_SECONDS, Pace
from relay.smtp.waiting_line import WaitingLine
from shared.service.tasks import Tasks
from shared.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STALLED_SECONDS: Final = 1.5  # after that, another opening begins beside this one
TRIAL_SECONDS: Final = 0.3  # after that, a new connection counts as proven, since its first email may be slow
REFUSALS_IN_A_ROW: Final = 3  # then a connection is closed: Postfix delays its replies after 10 errors without a mail
CLOSE_SECONDS: Final = 2.0


class Poolable(Protocol):
    """The interface of a connection that the pool needs.

    `refusals` counts the transactions in a row that the server refused. `is_proven` means that the server has accepted
    or refused a transaction. Before that, it may still close the connection because it allows no further one.
    """

    transactions: int
    refusals: int
    is_proven: bool

    @property
    def is_usable(self) -> bool: ...  # noqa: D102

    async def quit(self) -> None: ...  # noqa: D102


C = TypeVar("C", bound=Poolable)


class PoolLimits(NamedTuple):
    """How many connections, how much each of them may do before it is closed, and the pause if none can be opened."""

    connections: int
    messages: int
    idle_seconds: float
    age_seconds: float
    pause_seconds: float = LONGEST_PAUSE_SECONDS


class PoolState(NamedTuple):
    """How many connections are in each state; `waiting` counts the callers that wait for one."""

    leased: int
    idle: int
    opening: int
    closing: int
    waiting: int


class _Opened(NamedTuple):
    at: float
    generation: int


class _Opening:
    """An opening in progress."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.is_stalled = False
        self.is_over = False


class Pool(Generic[C]):
    """Lends connections by turns among groups; opens them on demand up to the limit, in tasks of their own.

    The caller whose turn it is gets the first free connection, kept or new: a slow handshake delays no other caller.
    After an opening that failed the callers go on waiting, and the next opening is begun after a pause.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        limits: PoolLimits,
        *,
        temporary: type[Exception] | tuple[()] = (),
    ) -> None:
        """Open with `connect`. An error goes to all callers that wait, except `temporary` ones, which are retried."""
        self._connect = connect
        self._limits = limits
        self._temporary = temporary
        self._idle = IdleConnections[C](limits.idle_seconds, self._is_good, self._retire)
        self._opened: dict[C, _Opened] = {}
        self._unproven: set[C] = set()  # the server has not answered a transaction on them yet (`is_proven`)
        self._on_trial: set[C] = set()  # those of them that are younger than TRIAL_SECONDS: fewer are opened meanwhile
        self._waiting: WaitingLine[C] = WaitingLine()
        self._pace = Pace(limits.pause_seconds)
        self._opening = Tasks()
        self._being_opened = 0
        self._stalled = 0
        self._resume: asyncio.TimerHandle | None = None
        self._resume_at = 0.0
        self._closing = Tasks()
        self._being_closed = 0
        self.waits = Histogram()
        self.unopened = 0
        self.failure: Exception | None = None  # of the last opening, if it failed

    def __repr__(self) -> str:
        """Show the state, for logs and tests."""
        return f"<Pool {', '.join(f'{count} {state}' for state, count in self.state()._asdict().items())}>"

    def state(self) -> PoolState:
        """Count the connections in each state, and the callers that wait for one."""
        idle = len(self._idle)
        return PoolState(
            leased=len(self._opened) - idle,
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
        if self._resume:
            self._resume.cancel()
        self._limits = self._limits._replace(connections=0, messages=0)  # open and keep none from now on
        self._opening.cancel()
        self._idle.retire_all()
        await self._closing.wait(CLOSE_SECONDS)

    def take(self, avoided: C | None = None) -> C | None:
        """Return an idle connection except `avoided`, if there is one; the caller has it until `release`."""
        return self._idle.take(None if self._pace.is_slow else avoided)

    async def acquire(self, avoided: C | None = None, *, group: str = "", again: bool = False) -> C:
        """Return a connection as soon as one is free; the caller has it until `release`.

        Groups go by turns; a caller that comes `again` goes before those of its group. It gets the connection that it
        wants to avoid only while no other one can be opened.

        Raises:
            Exception: the error of `connect`, unless it is temporary.
        """
        if connection := self.take(avoided):
            return connection
        waiter = self._waiting.join(group, avoided, again=again)
        self._open_more()
        began = time.monotonic()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiting.leave(waiter)
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self.release(waiter.result())
            raise
        finally:
            self.waits.observe(time.monotonic() - began)

    def release(self, connection: C) -> None:
        """Take a connection back, usable or not."""
        if connection in self._unproven:
            self._learn_from(connection)
        if not self._is_good(connection):
            self._retire(connection)
        else:
            self._pass_on(connection)

    def _learn_from(self, connection: C) -> None:
        """Set the pace after the first transaction of a connection. If it was lost, it might as well be unopened."""
        if connection.is_proven:
            self._unproven.remove(connection)
            if self._pace.is_slow:
                self._pace.reset()
            self._end_trial(connection)
        elif not connection.is_usable:
            self._pace.fail(self._opened[connection].generation, time.monotonic())

    def _is_good(self, connection: C) -> bool:
        return (
            connection.is_usable
            and connection.transactions < self._limits.messages
            and connection.refusals < REFUSALS_IN_A_ROW
            and time.monotonic() - self._opened[connection].at < self._limits.age_seconds
        )

    def _pass_on(self, connection: C) -> bool:
        """Lend a connection to the caller whose turn it is, or keep it; return whether it was lent."""
        waiter = self._waiting.first(None if self._pace.is_slow else connection)
        if waiter:
            waiter.set_result(connection)
            return True
        self._idle.keep(connection, use_last=bool(connection.refusals))
        if self._waiting:
            self._open_more()
        return False

    def _open_more(self) -> None:
        """Open connections for the callers that wait, as far as limits and pace allow it."""
        if self._waiting and time.monotonic() < self._pace.resumes_at:
            self._open_later()
            return
        on_trial = self._count_on_trial()
        at_once = self._pace.at_once(len(self._opened) - on_trial, on_trial)
        while self._being_opened - self._stalled < min(len(self._waiting), at_once):
            if self._being_opened + len(self._opened) + self._being_closed >= self._limits.connections:
                self._make_way()
                return
            self._being_opened += 1
            opening = _Opening(self._pace.generation)
            self._opening.start(self._open(opening), at_end=partial(self._end_open, opening))

    def _count_on_trial(self) -> int:
        """Count the new connections that are in use; callers that wait may all avoid an idle one."""
        return len(self._on_trial.difference(self._idle)) if self._on_trial else 0

    def _end_trial(self, connection: C) -> None:
        self._on_trial.discard(connection)
        self._open_more()

    def _make_way(self) -> None:
        """Close an idle connection: all callers that wait avoid it, and no other one can be opened beside it."""
        if self._idle and not self._being_closed:
            self._idle.retire_one()

    def _open_later(self) -> None:
        if self._resume and self._resume_at <= self._pace.resumes_at:
            return
        if self._resume:  # of a longer pause that is over
            self._resume.cancel()
        self._resume_at = self._pace.resumes_at
        self._resume = asyncio.get_running_loop().call_at(self._resume_at, self._resume_opening)

    def _resume_opening(self) -> None:
        self._resume = None
        self._open_more()

    async def _open(self, opening: _Opening) -> None:
        try:
            connection = await self._connected(opening)
        except Exception as error:  # noqa: BLE001 - for the callers that wait
            self.unopened += 1
            self._fail(error, opening)
        else:
            if opening.is_stalled:  # the server is slow, and works
                self._pace.reset()
            elif self._pace.is_slow:  # it may be lost in its first transaction
                self._pace.wait(time.monotonic())
            self.failure = None
            self._opened[connection] = _Opened(time.monotonic(), opening.generation)
            self._unproven.add(connection)
            self._on_trial.add(connection)
            asyncio.get_running_loop().call_later(TRIAL_SECONDS, self._end_trial, connection)
            self._pass_on(connection)

    async def _connected(self, opening: _Opening) -> C:
        stall = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._stall, opening)
        try:
            return await self._connect()
        finally:
            stall.cancel()
            self._end_opening(opening)

    def _end_open(self, opening: _Opening) -> None:
        """Begin the next opening, however the task of this one ended."""
        self._end_opening(opening)
        self._open_more()

    def _end_opening(self, opening: _Opening) -> None:
        if not opening.is_over:
            opening.is_over = True
            self._being_opened -= 1
            self._stalled -= opening.is_stalled

    def _stall(self, opening: _Opening) -> None:
        """Count an opening as failed for now, and begin another one."""
        opening.is_stalled = True
        self._stalled += 1
        self._pace.fail(opening.generation, time.monotonic())
        self._lend_avoided()
        self._open_more()

    def _fail(self, error: Exception, opening: _Opening) -> None:
        if isinstance(error, self._temporary):
            self.failure = error
            self._pace.fail(opening.generation, time.monotonic())
            self._lend_avoided()
            return
        while waiter := self._waiting.first():
            waiter.set_exception(error)

    def _lend_avoided(self) -> None:
        """After an opening that failed or stalls, lend idle connections also to callers that avoid them.

        Another connection may take long.
        """
        while self._waiting and self._pace.is_slow and (connection := self.take()):
            if not self._pass_on(connection):  # those that wait are cancelled, and will leave
                return

    def _retire(self, connection: C) -> None:
        del self._opened[connection]
        self._unproven.discard(connection)
        self._on_trial.discard(connection)
        self._being_closed += 1
        self._closing.start(connection.quit(), at_end=self._end_closing)

    def _end_closing(self) -> None:
        """Open another connection only now: the server limits connections too."""
        self._being_closed -= 1
        self._open_more()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The pool alone: connections are ours, open when the test lets them, and close when it lets them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.smtp import pool as smtp_pool
from relay.smtp.pool import OPENINGS_UNTIL_ONE_SUCCEEDS, Limits, Pool
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Coroutine

LONG = 3600.0
SHORT = 0.05


class RefusedError(Exception):
    """An opening that failed."""


class BarredError(Exception):
    """An opening that nobody else should try."""


class Connection:
    """What the pool lends here."""

    def __init__(self, server: Server) -> None:
        self.transactions = 0
        self.is_usable = True
        self._server = server

    async def quit(self) -> None:
        """Take leave; it takes as long as the test wants."""
        if self._server.closes_slowly:
            await self._server.later(self._server.closings)
        self._server.open.discard(self)
        self.is_usable = False


class Server:
    """Counts what is connected; opens at once, or when the test says."""

    def __init__(self, *, opens_slowly: bool = False, closes_slowly: bool = False) -> None:
        self.opens_slowly = opens_slowly
        self.closes_slowly = closes_slowly
        self.open: set[Connection] = set()
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
        """Let every connection go that waits to be closed."""
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


def limits(connections: int = 2, **changes: Any) -> Limits:
    """Limits that play no part unless they are named."""
    return Limits(connections, messages=1000, idle_seconds=LONG, age_seconds=LONG)._replace(**changes)


def task(coroutine: Coroutine[Any, Any, Connection]) -> asyncio.Task[Connection]:
    return asyncio.create_task(coroutine)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(8):
        await asyncio.sleep(0)


# Lending


async def test_a_connection_is_opened_when_needed_and_kept() -> None:
    server = Server()
    async with Pool(server.connect, limits()) as pool:
        assert server.attempts == 0
        first = await pool.acquire()
        pool.release(first)
        assert await pool.acquire() is first
        assert server.attempts == 1


async def test_never_more_are_open_than_the_bound() -> None:
    server = Server()
    async with Pool(server.connect, limits(3, messages=2)) as pool:

        async def use() -> None:
            connection = await pool.acquire()
            connection.transactions += 1
            await asyncio.sleep(0)
            pool.release(connection)

        await asyncio.gather(*(use() for _ in range(100)))
        assert server.most == 3
        assert 50 <= server.attempts < 55


async def test_a_connection_counts_until_it_has_taken_leave() -> None:
    server = Server(closes_slowly=True)
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        connection.is_usable = False
        early = task(pool.acquire())
        await settle()
        pool.release(connection)
        late = task(pool.acquire())
        await settle()
        assert repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 1 closing, 2 waiting>"
        assert server.attempts == 1
        server.closings[0].set_result(None)
        pool.release(await early)
        assert await late in server.open
        assert server.most == 1


async def test_whoever_came_first_is_served_first() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        served: list[int] = []

        async def use(number: int) -> None:
            taken = await pool.acquire()
            served.append(number)
            await asyncio.sleep(0)
            pool.release(taken)

        users = [asyncio.create_task(use(number)) for number in range(20)]
        await settle()
        pool.release(connection)
        await asyncio.gather(*users)
        assert served == list(range(20))
        assert server.attempts == 1


async def test_nobody_overtakes_those_who_wait() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        waiting = task(pool.acquire())
        await settle()
        pool.release(connection)
        assert pool.take() is None
        late = task(pool.acquire())
        assert await waiting is connection
        assert not late.done()
        pool.release(connection)
        assert await late is connection


async def test_take_lends_what_is_idle_and_opens_nothing() -> None:
    server = Server()
    async with Pool(server.connect, limits()) as pool:
        assert pool.take() is None
        connection = await pool.acquire()
        assert pool.take() is None
        pool.release(connection)
        assert pool.take() is connection
        assert server.attempts == 1


async def test_whatever_comes_free_first_serves_whether_kept_or_new() -> None:
    server = Server()
    async with Pool(server.connect, limits(2)) as pool:
        kept = await pool.acquire()
        server.opens_slowly = True
        waiting = task(pool.acquire())
        await settle()
        assert len(server.openings) == 1
        pool.release(kept)
        assert await waiting is kept
        server.openings[0].set_result(None)
        await settle()
        assert repr(pool) == "<Pool 1 leased, 1 idle, 0 opening, 0 closing, 0 waiting>"


async def test_the_one_used_last_is_used_next_so_that_the_others_may_go() -> None:
    server = Server()
    async with Pool(server.connect, limits(2)) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        pool.release(first)
        pool.release(second)
        assert await pool.acquire() is second


async def test_a_burst_opens_few_until_one_succeeds_and_then_up_to_the_bound() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(10)) as pool:
        users = [task(pool.acquire()) for _ in range(20)]
        await settle()
        assert len(server.openings) == OPENINGS_UNTIL_ONE_SUCCEEDS
        server.openings[0].set_result(None)
        await settle()
        assert len(server.openings) == 9
        server.openings[0].set_result(None)
        await settle()
        assert repr(pool) == "<Pool 2 leased, 0 idle, 8 opening, 0 closing, 18 waiting>"
        for user in users:
            user.cancel()


async def test_the_state_is_told() -> None:
    server = Server(closes_slowly=True)
    async with Pool(server.connect, limits(2)) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        waiting = task(pool.acquire())
        await settle()
        assert repr(pool) == "<Pool 2 leased, 0 idle, 0 opening, 0 closing, 1 waiting>"
        pool.release(first)
        assert await waiting is first
        pool.release(second)
        assert repr(pool) == "<Pool 1 leased, 1 idle, 0 opening, 0 closing, 0 waiting>"
        first.is_usable = False
        pool.release(first)
        await settle()
        assert repr(pool) == "<Pool 0 leased, 1 idle, 0 opening, 1 closing, 0 waiting>"
        server.closings[0].set_result(None)
        server.closes_slowly = False


# Openings that fail


async def test_an_opening_that_fails_is_told_to_one_while_others_may_still_be_served() -> None:
    server = Server()
    async with Pool(server.connect, limits(2)) as pool:
        connection = await pool.acquire()
        server.opens_slowly = True
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        server.openings[0].set_exception(RefusedError())
        with pytest.raises(RefusedError):
            await first
        await settle()
        assert len(server.openings) == 1, "for the second"
        pool.release(connection)
        assert await second is connection
        server.openings[0].set_exception(RefusedError())


async def test_an_opening_that_fails_where_nothing_is_open_is_told_to_all_and_tried_no_more() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(8)) as pool:
        users = [task(pool.acquire()) for _ in range(20)]
        await settle()
        for opening in list(server.openings):
            opening.set_exception(RefusedError())
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert all(isinstance(outcome, RefusedError) for outcome in outcomes)
        assert server.attempts == OPENINGS_UNTIL_ONE_SUCCEEDS
        assert repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 0 waiting>"


async def test_what_concerns_all_is_told_to_all_even_while_others_could_be_served() -> None:
    server = Server()
    async with Pool(server.connect, limits(2), for_all=BarredError) as pool:
        connection = await pool.acquire()
        server.opens_slowly = True
        users = [task(pool.acquire()) for _ in range(20)]
        await settle()
        server.openings[0].set_exception(BarredError())
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert all(isinstance(outcome, BarredError) for outcome in outcomes)
        assert server.attempts == 2
        pool.release(connection)


async def test_after_an_opening_that_failed_the_next_request_opens_again() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(1)) as pool:
        for _ in range(3):
            user = task(pool.acquire())
            await settle()
            server.openings[0].set_exception(RefusedError())
            with pytest.raises(RefusedError):
                await user
        server.opens_slowly = False
        assert await pool.acquire() in server.open


async def test_an_opening_that_fails_when_nobody_waits_any_more_hurts_nobody() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(1)) as pool:
        user = task(pool.acquire())
        await settle()
        user.cancel()
        await settle()
        server.openings[0].set_exception(RefusedError())
        await settle()
        assert repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 0 waiting>"
        server.opens_slowly = False
        await pool.acquire()


# Retiring


@pytest.mark.parametrize("spoil", ["is_usable", "transactions"])
async def test_a_connection_that_is_used_up_is_closed_and_replaced(spoil: str) -> None:
    server = Server()
    async with Pool(server.connect, limits(1, messages=5)) as pool:
        connection = await pool.acquire()
        setattr(connection, spoil, {"is_usable": False, "transactions": 5}[spoil])
        pool.release(connection)
        assert await pool.acquire() is not connection
        assert connection not in server.open


async def test_a_connection_that_ended_while_idle_is_not_lent() -> None:
    server = Server()
    async with Pool(server.connect, limits(3)) as pool:
        connections = [await pool.acquire() for _ in range(3)]
        for connection in connections:
            pool.release(connection)
        connections[1].is_usable = connections[2].is_usable = False
        assert await pool.acquire() is connections[0]
        await settle()
        assert server.open == {connections[0]}


async def test_a_connection_is_not_lent_once_it_is_too_old() -> None:
    server = Server()
    async with Pool(server.connect, limits(1, age_seconds=SHORT * 5)) as pool:
        connection = await pool.acquire()
        pool.release(connection)
        assert await pool.acquire() is connection
        await asyncio.sleep(SHORT * 5)
        pool.release(connection)
        assert await pool.acquire() is not connection


async def test_idle_connections_are_closed_in_time_without_being_asked_for() -> None:
    server = Server()
    async with Pool(server.connect, limits(3, idle_seconds=SHORT)) as pool:
        connections = [await pool.acquire() for _ in range(3)]
        started = time.monotonic()
        pool.release(connections[0])
        await asyncio.sleep(SHORT / 2)
        pool.release(connections[1])
        await until(lambda: len(server.open) == 1)
        assert time.monotonic() - started >= SHORT * 1.4
        pool.release(connections[2])
        assert await pool.acquire() is connections[2]
        pool.release(connections[2])
        await until(lambda: not server.open)
        assert repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 0 waiting>"


async def test_a_connection_idle_for_too_long_is_not_lent_even_before_it_is_closed() -> None:
    server = Server()
    async with Pool(server.connect, limits(1, idle_seconds=SHORT)) as pool:
        connection = await pool.acquire()
        pool.release(connection)
        time.sleep(SHORT * 1.2)  # noqa: ASYNC251 - so that no timer has fired
        assert pool.take() is None
        assert await pool.acquire() is not connection


# Cancellation


async def test_a_wait_that_is_cancelled_leaves_its_place() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        first.cancel()
        await settle()
        pool.release(connection)
        assert await second is connection


async def test_a_wait_that_is_cancelled_just_when_it_is_served_passes_the_connection_on() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        pool.release(connection)
        first.cancel()
        assert await second is connection
        assert first.cancelled()


async def test_a_wait_that_is_cancelled_just_before_it_would_be_served_takes_nothing() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        first.cancel()
        pool.release(connection)
        assert await second is connection


async def test_a_wait_that_is_cancelled_just_when_its_opening_fails_takes_the_error_along() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(1)) as pool:
        user = task(pool.acquire())
        await settle()
        server.openings[0].set_exception(RefusedError())
        await asyncio.sleep(0)
        user.cancel()
        with pytest.raises((asyncio.CancelledError, RefusedError)):
            await user
        assert repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 0 waiting>"


async def test_a_connection_whose_opener_was_cancelled_serves_the_next() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(1)) as pool:
        user = task(pool.acquire())
        await settle()
        user.cancel()
        await settle()
        server.openings[0].set_result(None)
        await settle()
        assert repr(pool) == "<Pool 0 leased, 1 idle, 0 opening, 0 closing, 0 waiting>"
        await pool.acquire()
        assert server.attempts == 1


@pytest.mark.parametrize("steps", range(12))
async def test_a_time_limit_may_end_a_wait_at_any_step(steps: int) -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        user = task(pool.acquire())
        for _ in range(steps):
            await asyncio.sleep(0)
        user.cancel()
        [outcome] = await asyncio.gather(user, return_exceptions=True)
        if isinstance(outcome, Connection):
            pool.release(outcome)
        async with asyncio.timeout(1):
            assert await pool.acquire() in server.open
        assert server.most == 1


# Leaving


async def test_leaving_closes_what_is_idle_and_waits_for_it() -> None:
    server = Server(closes_slowly=True)
    pool = Pool(server.connect, limits(3))
    async with pool:
        for connection in [await pool.acquire() for _ in range(3)]:
            pool.release(connection)
        asyncio.get_running_loop().call_later(SHORT, server.close_all)
    assert not server.open


async def test_leaving_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_pool, "CLOSE_SECONDS", SHORT)
    server = Server(closes_slowly=True)
    started = time.monotonic()
    async with Pool(server.connect, limits()) as pool:
        pool.release(await pool.acquire())
    assert time.monotonic() - started < 5
    for closing in server.closings:
        closing.set_result(None)


async def test_leaving_breaks_off_what_is_being_opened() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits()) as pool:
        user = task(pool.acquire())
        await settle()
        user.cancel()
    await settle()
    assert not server.openings
    assert not server.open


async def test_a_connection_that_comes_back_after_leaving_is_closed() -> None:
    server = Server()
    async with Pool(server.connect, limits()) as pool:
        connection = await pool.acquire()
    pool.release(connection)
    await settle()
    assert not server.open


# Any schedule

steps = st.lists(
    st.tuples(
        st.sampled_from([*2 * ["acquire", "open", "settle"], "release", "spoil", "cancel", "fail", "bar", "close"]),
        st.integers(0, 7),
    ),
    min_size=20,
    max_size=60,
)


class Schedule:
    """Does to a pool what it is told, in any order, and looks whether what must hold does."""

    def __init__(self, bound: int) -> None:
        self._server = Server(opens_slowly=True, closes_slowly=True)
        self._bound = bound
        self.pool = Pool(self._server.connect, limits(bound), for_all=BarredError)
        self._users: list[asyncio.Task[Connection]] = []
        self._leased: list[Connection] = []

    async def do(self, step: str, which: int) -> None:
        """One step, mostly without giving the loop a turn."""
        match step:
            case "acquire":
                self._users.append(task(self.pool.acquire()))
            case "release" | "spoil" if self._leased:
                connection = self._leased.pop(which % len(self._leased))
                connection.is_usable = step == "release"
                self.pool.release(connection)
            case "cancel" if self._users:
                self._users[which % len(self._users)].cancel()
            case "open":
                _settle_one(self._server.openings, which, None)
            case "fail":
                _settle_one(self._server.openings, which, RefusedError())
            case "bar":
                _settle_one(self._server.openings, which, BarredError())
            case "close":
                _settle_one(self._server.closings, which, None)
            case "settle":
                await self.look()

    async def look(self) -> None:
        """Whatever can run has run: what must hold now?"""
        await settle()
        for user in [user for user in self._users if user.done()]:
            self._users.remove(user)
            if not user.cancelled() and user.exception() is None:
                self._leased.append(user.result())
        server, idle = self._server, len(self._server.open) - len(self._leased) - len(self._server.closings)
        opening, closing, waiting = len(server.openings), len(server.closings), len(self._users)
        leased = len(self._leased)
        state = f"<Pool {leased} leased, {idle} idle, {opening} opening, {closing} closing, {waiting} waiting>"
        assert repr(self.pool) == state
        assert len(server.open) + opening <= self._bound
        if waiting:
            assert not idle, "nobody waits while something is idle"
            assert self._leased or opening or closing, "somebody will come to serve whoever waits"

    async def finish(self) -> None:
        """However it went, everybody who waits is served in the end."""
        self._server.opens_slowly = self._server.closes_slowly = False
        while True:
            for future in [*self._server.openings, *self._server.closings]:
                if not future.done():
                    future.set_result(None)
            await self.look()
            if not self._users and not self._server.openings and not self._server.closings:
                return
            for connection in self._leased:
                self.pool.release(connection)
            self._leased.clear()


def _settle_one(futures: list[asyncio.Future[None]], which: int, error: Exception | None) -> None:
    pending = [future for future in futures if not future.done()]
    if not pending:
        return
    future = pending[which % len(pending)]
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)


@given(st.integers(1, 3), steps)
@settings(deadline=None, max_examples=300)
async def test_any_schedule_keeps_the_bound_and_starves_nobody(bound: int, schedule: list[tuple[str, int]]) -> None:
    run = Schedule(bound)
    async with asyncio.timeout(10), run.pool:
        for step, which in schedule:
            await run.do(step, which)
        await run.look()
        await run.finish()

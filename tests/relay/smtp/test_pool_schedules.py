# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The pool alone: cancelled callers, and any schedule of steps."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.smtp import pace
from relay.smtp.pool import Pool
from tests.relay.smtp.pooled import AccountRefusedError, Connection, RefusedError, Server, limits, settle, task

# Cancellation


async def test_a_cancelled_wait_passes_its_turn_on() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        first.cancel()
        await settle()
        pool.release(connection)
        assert await second is connection


async def test_a_wait_cancelled_as_it_is_served_passes_the_connection_on() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        pool.release(connection)
        first.cancel()
        assert await second is connection
        assert first.cancelled()


async def test_a_wait_cancelled_just_before_it_is_served_gets_no_connection() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        first, second = task(pool.acquire()), task(pool.acquire())
        await settle()
        first.cancel()
        pool.release(connection)
        assert await second is connection


async def test_a_wait_cancelled_as_its_opening_fails_leaves_no_state() -> None:
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


async def test_a_connection_opened_for_a_cancelled_caller_serves_the_next() -> None:
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


async def test_a_wait_cancelled_while_it_avoids_the_idle_connection_and_no_other_opens_keeps_nothing_busy() -> None:
    server = Server()
    async with Pool(server.connect, limits(2), temporary=RefusedError) as pool:
        connection = await pool.acquire()
        pool.release(connection)
        server.opens_slowly = True
        user = task(pool.acquire(connection))
        await settle()
        server.openings[0].set_exception(RefusedError())
        user.cancel()
        await settle()
        assert repr(pool) == "<Pool 0 leased, 1 idle, 0 opening, 0 closing, 0 waiting>"


@pytest.mark.parametrize("steps", range(12))
async def test_a_wait_can_be_cancelled_at_any_step(steps: int) -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        user = task(pool.acquire())
        for _ in range(steps):
            await asyncio.sleep(0)
        user.cancel()
        [outcome] = await asyncio.gather(user, return_exceptions=True)
        if isinstance(outcome, Connection):
            pool.release(outcome)
        async with asyncio.timeout(20):
            assert await pool.acquire() in server.open
        assert server.most == 1


# Any schedule

steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *2 * ["acquire", "open", "settle"],
                *("acquire avoiding", "release", "release refused", "spoil", "lose", "cancel", "fail"),
                *("refuse account", "close"),
            ]
        ),
        st.integers(0, 7),
    ),
    min_size=20,
    max_size=60,
)


class Schedule:
    """Takes steps on a pool in any order, and checks the conditions that must hold."""

    def __init__(self, bound: int) -> None:
        self._server = Server(opens_slowly=True, closes_slowly=True)
        self._bound = bound
        self.pool = Pool(self._server.connect, limits(bound), temporary=RefusedError)
        self._users: dict[asyncio.Task[Connection], Connection | None] = {}
        self._leased: list[Connection] = []

    async def do(self, step: str, which: int) -> None:
        """Take one step, in most cases without a turn of the loop."""
        match step:
            case "acquire":
                self._users[task(self.pool.acquire())] = None
            case "acquire avoiding" if self._server.open:
                avoided = sorted(self._server.open, key=id)[which % len(self._server.open)]
                self._users[task(self.pool.acquire(avoided))] = avoided
            case "release" | "release refused" | "spoil" | "lose" if self._leased:
                connection = self._leased.pop(which % len(self._leased))
                connection.is_usable = step.startswith("release")
                connection.refusals = connection.refusals + 1 if step == "release refused" else 0
                connection.is_proven = step != "lose"
                self.pool.release(connection)
            case "cancel" if self._users:
                list(self._users)[which % len(self._users)].cancel()
            case "open":
                _settle_one(self._server.openings, which, None)
            case "fail":
                _settle_one(self._server.openings, which, RefusedError())
            case "refuse account":
                _settle_one(self._server.openings, which, AccountRefusedError())
            case "close":
                _settle_one(self._server.closings, which, None)
            case "settle":
                await self.check()

    async def check(self) -> None:
        """Let all tasks run, then check the conditions."""
        await settle()
        for user in [user for user in self._users if user.done()]:
            del self._users[user]
            if not user.cancelled() and user.exception() is None:
                self._leased.append(user.result())
        server, idle = self._server, len(self._server.open) - len(self._leased) - len(self._server.closings)
        opening, closing, waiting = len(server.openings), len(server.closings), len(self._users)
        leased = len(self._leased)
        state = f"<Pool {leased} leased, {idle} idle, {opening} opening, {closing} closing, {waiting} waiting>"
        assert repr(self.pool) == state
        assert len(server.open) + opening <= self._bound
        if waiting:
            free = server.open - server.quitting - set(self._leased)
            assert all(free <= {avoided} for avoided in self._users.values()), "a caller waits for an idle connection"
            assert self._leased or opening or closing, "a connection will become free for the waiting caller"

    async def finish(self) -> None:
        """Let every waiting caller be served."""
        self._server.opens_slowly = self._server.closes_slowly = False
        while True:
            for future in [*self._server.openings, *self._server.closings]:
                if not future.done():
                    future.set_result(None)
            await self.check()
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
@settings(max_examples=150)
async def test_in_any_schedule_the_limit_holds_and_every_caller_is_served(
    bound: int, schedule: list[tuple[str, int]]
) -> None:
    run = Schedule(bound)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "FIRST_PAUSE_SECONDS", 0)
        await _run(run, schedule)


async def _run(run: Schedule, schedule: list[tuple[str, int]]) -> None:
    async with asyncio.timeout(10), run.pool:
        for step, which in schedule:
            await run.do(step, which)
        await run.check()
        await run.finish()

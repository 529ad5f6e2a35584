# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The pool alone: openings that fail or stall, and the pause that they share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.smtp import pace
from relay.smtp import pool as smtp_pool
from relay.smtp.pace import Pace
from relay.smtp.pool import Pool
from tests.relay.smtp.pooled import (
    SHORT,
    AccountRefusedError,
    Connection,
    RefusedError,
    Server,
    limits,
    settle,
    task,
)
from tests.stack.waiting import until

EMPTY = "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 0 waiting>"


def pool_of(server: Server, connections: int = 8) -> Pool[Connection]:
    """A pool that tries again after RefusedError."""
    return Pool(server.connect, limits(connections), temporary=RefusedError)


async def test_openings_that_fail_together_wait_also_for_a_pause_that_is_almost_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_SECONDS", 0.0004)  # uvloop's handle of it has no time
    monkeypatch.setattr(pace, "JITTER", (1, 1))
    server = Server(opens_slowly=True)
    async with pool_of(server) as pool:
        users = [task(pool.acquire()) for _ in range(2)]
        await until(lambda: len(server.openings) == 2)
        for opening in server.openings:
            opening.set_exception(RefusedError())
        server.opens_slowly = False
        assert await asyncio.wait_for(asyncio.gather(*users), 20)
    assert not caplog.records


@pytest.mark.parametrize("when", ["before it began", "while it opens"])
async def test_after_the_death_of_an_opening_the_next_one_serves_the_caller(when: str) -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server, connections=1) as pool:
        user = task(pool.acquire())
        await asyncio.sleep(0)
        if when == "while it opens":
            await until(lambda: server.openings)
        [opening] = tasks_of("_open")
        opening.cancel()
        server.opens_slowly = False
        assert await asyncio.wait_for(user, 20) in server.open
        await settle()
        assert repr(pool) == "<Pool 1 leased, 0 idle, 0 opening, 0 closing, 0 waiting>"


@pytest.mark.parametrize("when", ["before it began", "while it closes"])
async def test_after_the_death_of_a_close_another_connection_is_opened(when: str) -> None:
    server = Server(closes_slowly=True)
    async with pool_of(server, connections=1) as pool:
        connection = await pool.acquire()
        connection.is_usable = False
        user = task(pool.acquire())
        await settle()
        pool.release(connection)
        if when == "while it closes":
            await until(lambda: server.quitting)
        [close] = tasks_of("quit")
        close.cancel()
        assert await asyncio.wait_for(user, 20) is not connection
        assert pool.state().closing == 0


def tasks_of(name: str) -> list[asyncio.Task[Any]]:
    """Return the running tasks of a coroutine function."""
    return [one for one in asyncio.all_tasks() if getattr(one.get_coro(), "__name__", "") == name]


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with a pause of 50 ms."""
    monkeypatch.setattr(pace, "FIRST_PAUSE_SECONDS", SHORT)


# Openings that fail


@pytest.mark.usefixtures("short_pause")
async def test_callers_wait_while_openings_fail_and_get_the_first_connection_that_works() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server) as pool:
        users = [task(pool.acquire()) for _ in range(20)]
        await settle()
        for opening in list(server.openings):
            opening.set_exception(RefusedError())
        await settle()
        assert repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 20 waiting>"
        assert isinstance(pool.failure, RefusedError)
        assert pool.unopened == 2
        server.opens_slowly = False
        for user in users:
            pool.release(await user)
        assert pool.failure is None


@pytest.mark.usefixtures("short_pause")
async def test_after_a_failure_one_connection_is_opened_at_a_time_until_one_has_worked() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server) as pool:
        users = [task(pool.acquire()) for _ in range(20)]
        await settle()
        for opening in list(server.openings):
            opening.set_exception(RefusedError())
        await settle()
        await until(lambda: server.openings)
        await settle()
        assert len(server.openings) == 1
        server.openings[0].set_result(None)
        connection = await users[0]
        await settle()
        assert not server.openings
        pool.release(connection)
        await settle()
        assert len(server.openings) == pace.AT_ONCE_AT_FIRST
        for user in users:
            user.cancel()


async def test_a_server_that_refuses_each_connection_is_asked_rarely() -> None:
    server = Server()

    async def refuse() -> Connection:
        server.attempts += 1
        raise RefusedError

    async with Pool(refuse, limits(32), temporary=RefusedError) as pool:
        users = [task(pool.acquire()) for _ in range(60)]
        await asyncio.sleep(2)
        assert 4 <= server.attempts <= 6
        late = task(pool.acquire())
        await settle()
        assert server.attempts <= 6, "a new caller waits too"
        for user in [*users, late]:
            user.cancel()


@pytest.mark.usefixtures("short_pause")
async def test_connections_lost_in_their_first_transaction_count_as_failed_openings() -> None:
    server = Server()
    async with pool_of(server) as pool:
        ended = asyncio.get_running_loop().time() + 1

        async def use() -> None:
            while asyncio.get_running_loop().time() < ended:
                connection = await pool.acquire()
                connection.is_usable = connection.is_proven = False
                pool.release(connection)

        users = [asyncio.create_task(use()) for _ in range(8)]
        await asyncio.sleep(1)
        for user in users:
            user.cancel()
        assert server.attempts <= 16


async def test_connections_lost_after_an_answer_are_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_SECONDS", 600)
    monkeypatch.setattr(pace, "LONGEST_PAUSE_SECONDS", 600)
    server = Server()
    async with pool_of(server, 1) as pool:
        async with asyncio.timeout(20):
            for _ in range(50):
                connection = await pool.acquire()
                connection.is_usable = False
                pool.release(connection)
        assert server.attempts == 50


async def test_kept_connections_serve_while_openings_fail_and_do_not_end_the_pause() -> None:
    server = Server()
    async with pool_of(server) as pool:
        pool.release(await pool.acquire())
        kept = await pool.acquire()
        server.opens_slowly = True
        users = [task(pool.acquire()) for _ in range(30)]
        await settle()
        assert len(server.openings) == pace.AT_ONCE_AT_FIRST
        for opening in list(server.openings):
            opening.set_exception(RefusedError())
        await settle()
        pool.release(kept)
        for user in users:
            assert await user is kept
            pool.release(kept)
        assert server.attempts == 1 + pace.AT_ONCE_AT_FIRST


async def test_an_error_that_is_not_temporary_fails_all_callers_though_a_connection_is_open() -> None:
    server = Server()
    async with pool_of(server, 2) as pool:
        connection = await pool.acquire()
        server.opens_slowly = True
        users = [task(pool.acquire()) for _ in range(20)]
        await settle()
        server.openings[0].set_exception(AccountRefusedError())
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert all(isinstance(outcome, AccountRefusedError) for outcome in outcomes)
        assert server.attempts == 2
        pool.release(connection)


@pytest.mark.usefixtures("short_pause")
async def test_after_a_failed_opening_without_a_waiting_caller_the_next_caller_opens_again() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server, 1) as pool:
        user = task(pool.acquire())
        await settle()
        user.cancel()
        await settle()
        server.openings[0].set_exception(RefusedError())
        await settle()
        assert repr(pool) == EMPTY
        server.opens_slowly = False
        await pool.acquire()


async def test_leaving_during_a_pause_opens_nothing_more() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server) as pool:
        user = task(pool.acquire())
        await settle()
        server.openings[0].set_exception(RefusedError())
        await settle()
        user.cancel()
    await asyncio.sleep(0.3)
    assert server.attempts == 1


# Openings that stall


@pytest.fixture
def stall_soon(monkeypatch: pytest.MonkeyPatch, short_pause: None) -> None:  # noqa: ARG001 - both times are short
    """Let an opening count as stalled after 50 ms."""
    monkeypatch.setattr(smtp_pool, "STALLED_SECONDS", SHORT)


@pytest.mark.usefixtures("stall_soon")
async def test_stalled_openings_do_not_keep_another_from_being_begun() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server) as pool:
        users = [task(pool.acquire()) for _ in range(5)]
        await until(lambda: len(server.openings) == 3)
        server.openings[2].set_result(None)
        for user in users:
            pool.release(await user)
        assert server.attempts <= 8


@pytest.mark.usefixtures("stall_soon")
async def test_stalled_openings_count_against_the_limit() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server, 3) as pool:
        user = task(pool.acquire())
        await until(lambda: len(server.openings) == 3)
        await asyncio.sleep(SHORT * 10)
        assert repr(pool) == "<Pool 0 leased, 0 idle, 3 opening, 0 closing, 1 waiting>"
        user.cancel()


@pytest.mark.usefixtures("stall_soon")
async def test_a_stalled_opening_that_succeeds_ends_the_pause() -> None:
    server = Server(opens_slowly=True)
    async with pool_of(server, 16) as pool:
        users = [task(pool.acquire()) for _ in range(30)]
        await until(lambda: len(server.openings) == 3)
        server.openings[0].set_result(None)
        pool.release(await users[0])
        await settle()
        assert len(server.openings) == 3
        for user in users:
            user.cancel()


# The pace


def test_pauses_grow_to_a_limit_and_vary() -> None:
    found = Pace()
    pauses = []
    for _ in range(3000):
        found.fail(found.generation, 0.0)
        pauses.append(found.resumes_at)
    assert 0.15 <= pauses[0] <= 0.25
    assert pauses[3] > 2 * pauses[1]
    assert max(pauses) <= pace.LONGEST_PAUSE_SECONDS * 1.25
    assert max(pauses[100:]) > min(pauses[100:]) * 1.4


def test_the_longest_pause_can_be_shorter() -> None:
    found = Pace(0.1)
    found.fail(0, 0.0)
    assert found.resumes_at <= 0.125


def test_failures_that_began_together_count_once() -> None:
    found = Pace()
    for _ in range(32):
        found.fail(0, 0.0)
    assert found.generation == 1
    assert found.resumes_at < 0.3


async def test_a_pause_that_is_almost_over_fails_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For less than half a millisecond, uvloop's `call_at` returns a handle without `when`."""
    monkeypatch.setattr(pace, "FIRST_PAUSE_SECONDS", 0.0003)
    server = Server(opens_slowly=True)
    async with pool_of(server) as pool:
        users = [task(pool.acquire()) for _ in range(2)]
        await settle()
        for opening in list(server.openings):
            opening.set_exception(RefusedError())
        server.opens_slowly = False
        async with asyncio.timeout(20):
            for user in users:
                pool.release(await user)
    assert caplog.messages == []

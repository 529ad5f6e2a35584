# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The pool alone: lending, openings that fail, retiring, leaving."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay.smtp import pace
from relay.smtp import pool as smtp_pool
from relay.smtp.pool import REFUSALS_IN_A_ROW, Pool
from tests.relay.smtp.pooled import SHORT, RefusedError, Server, limits, settle, task
from tests.stack.waiting import until

# Lending


async def test_a_connection_is_opened_on_demand_and_kept() -> None:
    server = Server()
    async with Pool(server.connect, limits()) as pool:
        assert server.attempts == 0
        first = await pool.acquire()
        pool.release(first)
        assert await pool.acquire() is first
        assert server.attempts == 1


async def test_the_connection_limit_holds() -> None:
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


async def test_groups_get_connections_by_turns_and_who_comes_again_goes_before_its_group() -> None:
    async with Pool(Server().connect, limits(1)) as pool:
        order: list[str] = []
        connection = await pool.acquire()

        async def use(name: str, *, again: bool = False) -> None:
            lent = await pool.acquire(group=name[0], again=again)
            order.append(name)
            pool.release(lent)

        waiting = [asyncio.ensure_future(use(name)) for name in ("a1", "a2", "a3", "b1")]
        await settle()
        waiting.append(asyncio.ensure_future(use("a0", again=True)))
        await settle()
        pool.release(connection)
        await asyncio.gather(*waiting)
        assert order == ["a0", "b1", "a1", "a2", "a3"]


async def test_a_connection_counts_until_it_is_closed() -> None:
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


async def test_callers_are_served_in_order() -> None:
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


async def test_a_new_caller_does_not_overtake_a_waiting_one() -> None:
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


async def test_take_returns_an_idle_connection_and_opens_none() -> None:
    server = Server()
    async with Pool(server.connect, limits()) as pool:
        assert pool.take() is None
        connection = await pool.acquire()
        assert pool.take() is None
        pool.release(connection)
        assert pool.take() is connection
        assert server.attempts == 1


async def test_a_waiting_caller_gets_the_first_free_connection_kept_or_new() -> None:
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


async def test_the_connection_used_last_is_used_next() -> None:
    server = Server()
    async with Pool(server.connect, limits(2)) as pool:
        first, second = await pool.acquire(), await pool.acquire()
        pool.release(first)
        pool.release(second)
        assert await pool.acquire() is second


async def test_a_burst_opens_half_as_many_connections_again_each_time_that_all_of_them_have_sent_an_email() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits(20)) as pool:
        users = [task(pool.acquire()) for _ in range(90)]
        await settle()
        for expected in (pace.AT_ONCE_AT_FIRST, 2, 2, 3, 4, 6, 1):  # up to the limit
            assert len(server.openings) == expected
            for opening in list(server.openings):
                opening.set_result(None)
            await settle()
            assert not server.openings
            for user in [user for user in users if user.done()]:
                users.remove(user)
                pool.release(user.result())
            await settle()
        assert repr(pool) == "<Pool 17 leased, 3 idle, 0 opening, 0 closing, 0 waiting>"
        for user in users:
            user.cancel()


async def test_a_first_email_that_takes_long_does_not_keep_other_connections_from_being_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smtp_pool, "TRIAL_SECONDS", SHORT)
    server = Server()
    async with Pool(server.connect, limits(20)) as pool:
        users = [task(pool.acquire()) for _ in range(8)]
        await until(lambda: len(server.open) == 8)
        for user in users:
            pool.release(await user)


async def test_the_representation_shows_the_state() -> None:
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


# A connection to avoid


async def test_a_caller_gets_another_connection_than_the_one_that_it_avoids() -> None:
    server = Server()
    async with Pool(server.connect, limits(2)) as pool:
        refused = await pool.acquire()
        pool.release(refused)
        assert pool.take(refused) is None
        other = await pool.acquire(refused)
        assert other is not refused
        pool.release(other)
        assert pool.take(refused) is other
        assert pool.take() is refused, "it serves the other callers"


async def test_an_avoided_connection_is_closed_if_no_other_one_can_be_opened_beside_it() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        refused = await pool.acquire()
        waiting = task(pool.acquire(refused))
        await settle()
        pool.release(refused)
        assert await waiting is not refused
        assert refused not in server.open
        assert server.most == 1


async def test_a_connection_that_one_caller_avoids_goes_to_the_next_one() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        refused = await pool.acquire()
        avoiding, other = task(pool.acquire(refused)), task(pool.acquire())
        await settle()
        pool.release(refused)
        assert await other is refused
        pool.release(refused)
        assert await avoiding is not refused


async def test_an_avoided_connection_is_lent_if_no_other_one_can_be_opened() -> None:
    server = Server()
    async with Pool(server.connect, limits(2), temporary=RefusedError) as pool:
        refused = await pool.acquire()
        pool.release(refused)
        server.opens_slowly = True
        waiting = task(pool.acquire(refused))
        await settle()
        server.openings[0].set_exception(RefusedError())
        assert await waiting is refused
        pool.release(refused)
        assert pool.take(refused) is refused, "until a new connection works"


async def test_a_connection_with_refusals_is_used_last() -> None:
    server = Server()
    async with Pool(server.connect, limits(2)) as pool:
        refused, good = await pool.acquire(), await pool.acquire()
        pool.release(good)
        refused.refusals = 1
        pool.release(refused)
        assert await pool.acquire() is good


async def test_a_connection_is_closed_after_a_few_refusals_in_a_row() -> None:
    server = Server()
    async with Pool(server.connect, limits(1)) as pool:
        connection = await pool.acquire()
        for refusals in range(1, REFUSALS_IN_A_ROW):
            connection.refusals = refusals
            pool.release(connection)
            assert await pool.acquire() is connection
        connection.refusals = REFUSALS_IN_A_ROW
        pool.release(connection)
        assert await pool.acquire() is not connection


# Retiring


@pytest.mark.parametrize("spoil", ["is_usable", "transactions"])
async def test_an_unusable_or_used_up_connection_is_replaced(spoil: str) -> None:
    server = Server()
    async with Pool(server.connect, limits(1, messages=5)) as pool:
        connection = await pool.acquire()
        setattr(connection, spoil, {"is_usable": False, "transactions": 5}[spoil])
        pool.release(connection)
        assert await pool.acquire() is not connection
        assert connection not in server.open


async def test_a_connection_lost_while_idle_is_not_lent() -> None:
    server = Server()
    async with Pool(server.connect, limits(3)) as pool:
        connections = [await pool.acquire() for _ in range(3)]
        for connection in connections:
            pool.release(connection)
        connections[1].is_usable = connections[2].is_usable = False
        assert await pool.acquire() is connections[0]
        await settle()
        assert server.open == {connections[0]}


async def test_a_connection_that_is_too_old_is_not_lent() -> None:
    server = Server()
    async with Pool(server.connect, limits(1, age_seconds=SHORT * 5)) as pool:
        connection = await pool.acquire()
        pool.release(connection)
        assert await pool.acquire() is connection
        await asyncio.sleep(SHORT * 6)
        pool.release(connection)
        assert await pool.acquire() is not connection


async def test_idle_connections_are_closed_in_time() -> None:
    server, idle = Server(), SHORT * 5  # the last acquisition must not be later
    async with Pool(server.connect, limits(3, idle_seconds=idle)) as pool:
        connections = [await pool.acquire() for _ in range(3)]
        started = time.monotonic()
        pool.release(connections[0])
        await asyncio.sleep(idle / 2)
        pool.release(connections[1])
        await until(lambda: len(server.open) == 1)
        assert time.monotonic() - started >= idle * 1.4
        pool.release(connections[2])
        assert await pool.acquire() is connections[2]
        pool.release(connections[2])
        await until(lambda: not server.open)
        await until(lambda: repr(pool) == "<Pool 0 leased, 0 idle, 0 opening, 0 closing, 0 waiting>")


async def test_a_connection_idle_for_too_long_is_not_lent() -> None:
    server = Server()
    async with Pool(server.connect, limits(1, idle_seconds=SHORT)) as pool:
        connection = await pool.acquire()
        pool.release(connection)
        time.sleep(SHORT * 1.2)  # noqa: ASYNC251 - so that no timer has fired
        assert pool.take() is None
        assert await pool.acquire() is not connection


# Leaving


async def test_leaving_waits_until_idle_connections_are_closed() -> None:
    server = Server(closes_slowly=True)
    pool = Pool(server.connect, limits(3))
    async with pool:
        for connection in [await pool.acquire() for _ in range(3)]:
            pool.release(connection)
        asyncio.get_running_loop().call_later(SHORT, server.close_all)
    assert not server.open


async def test_leaving_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_pool, "CLOSE_SECONDS", SHORT)
    server = Server(closes_slowly=True)
    started = time.monotonic()
    async with Pool(server.connect, limits()) as pool:
        pool.release(await pool.acquire())
    assert time.monotonic() - started < 20
    for closing in server.closings:
        closing.set_result(None)


async def test_leaving_cancels_openings() -> None:
    server = Server(opens_slowly=True)
    async with Pool(server.connect, limits()) as pool:
        user = task(pool.acquire())
        await settle()
        user.cancel()
    await settle()
    assert not server.openings
    assert not server.open


async def test_a_connection_released_after_leaving_is_closed() -> None:
    server = Server()
    async with Pool(server.connect, limits()) as pool:
        connection = await pool.acquire()
    pool.release(connection)
    await settle()
    assert not server.open

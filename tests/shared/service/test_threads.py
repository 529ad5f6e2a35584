# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A blocking call runs in a thread; without a thread its caller gets an error at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shared.service import threads
from shared.service.server_addresses import ServerAddresses
from shared.service.threads import ThreadRefused, Threads
from tests.stack.few_threads import FewThreads
from tests.stack.waiting import until


async def test_the_result_or_the_error_of_a_call_is_returned() -> None:
    assert await threads.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)


async def test_a_call_that_gets_no_thread_fails_at_once_and_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    few_threads = FewThreads(monkeypatch)
    with pytest.raises(ThreadRefused, match=r"can't start new thread: raise the limit of threads"):
        await threads.run(threading.get_ident)
    few_threads.are_allowed = True
    assert await threads.run(threading.get_ident)


async def test_a_name_that_no_thread_can_look_up_is_an_error_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callers try again after an OSError: the pool of the relay, and the connection to NATS."""
    FewThreads(monkeypatch)
    with pytest.raises(OSError, match="can't start new thread"):
        await ServerAddresses("localhost", 1).connect()


async def test_a_call_that_is_not_awaited_any_more_disturbs_nothing() -> None:
    may_end = threading.Event()
    call = threads.run(may_end.wait)
    call.cancel()
    may_end.set()
    await asyncio.sleep(0)
    assert call.cancelled()


async def test_calls_in_turn_run_in_one_thread_which_ends_with_its_owner() -> None:
    kept = Threads()
    thread = await kept.run(threading.current_thread)
    assert await kept.run(threading.current_thread) is thread
    del kept
    await until(lambda: not thread.is_alive())


async def test_a_thread_is_kept_after_an_error() -> None:
    kept = Threads()
    thread = await kept.run(threading.current_thread)
    with pytest.raises(ZeroDivisionError):
        await kept.run(lambda: 1 / 0)
    assert await kept.run(threading.current_thread) is thread


async def test_only_a_few_of_many_threads_are_kept() -> None:
    kept = Threads()
    may_end = threading.Event()

    def wait() -> threading.Thread:
        may_end.wait()
        return threading.current_thread()

    calls = [kept.run(wait) for _ in range(threads.KEPT + 2)]
    may_end.set()
    used = await asyncio.gather(*calls)
    assert len(set(used)) == threads.KEPT + 2
    await until(lambda: sum(thread.is_alive() for thread in used) == threads.KEPT)


async def test_a_call_that_nothing_waits_for_leaves_its_thread_to_the_next() -> None:
    kept = Threads()
    may_end = threading.Event()
    thread = await kept.run(threading.current_thread)
    kept.run(may_end.wait).cancel()
    other = await kept.run(threading.current_thread)
    assert other is not thread
    may_end.set()
    await until(lambda: len(kept._idle) == 2)  # noqa: SLF001 - nothing else shows that the call has ended
    assert await kept.run(threading.current_thread) is thread

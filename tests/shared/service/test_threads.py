# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A blocking call runs in a thread; without a thread its caller gets an error at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shared.service import threads
from shared.service.server_addresses import ServerAddresses
from shared.service.threads import ThreadRefused
from tests.stack.few_threads import FewThreads


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

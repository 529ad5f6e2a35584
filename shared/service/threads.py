# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Runs blocking calls in threads that the process does not wait for when it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    _Calls = SimpleQueue[Callable[[], None] | None]
    """What a thread does, in turn; None ends it."""

log = logging.getLogger(__name__)

NAME: Final = "blocking call"
KEPT: Final = 8  # threads that wait for the next call; there are more while more calls run at once

T = TypeVar("T")


class ThreadRefused(OSError):
    """The system started no thread. Try again: threads end, and the limit may be raised."""

    def __init__(self, error: RuntimeError) -> None:
        """Name the limits that an operator can raise."""
        super().__init__(f"{error}: raise the limit of threads (pids of the container, ulimit -u) or of memory")


def run(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a call in a new daemon thread; at its end, the process would wait for the threads of an executor.

    Raises:
        ThreadRefused: at once; the call was not made.
    """
    return Threads().run(call)


class Threads:
    """Daemon threads for calls that are frequent: a few threads are kept, since starting one takes long."""

    def __init__(self) -> None:
        """Begin without threads."""
        self._idle: list[_Calls] = []

    def __del__(self) -> None:
        """End the threads that are kept."""
        for calls in self._idle:
            calls.put(None)

    def run(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Run a call in a thread.

        Raises:
            ThreadRefused: at once; the call was not made.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        calls = self._idle.pop() if self._idle else _start_thread()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._keep(calls)
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001 - the future raises it
                error = raised
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:  # the loop is closed: the process is ending
                log.debug("thread.answer_abandoned")

        calls.put(work)
        return future

    def _keep(self, calls: _Calls) -> None:
        if len(self._idle) < KEPT:
            self._idle.append(calls)
        else:
            calls.put(None)


def _start_thread() -> _Calls:
    calls: _Calls = SimpleQueue()
    try:
        threading.Thread(target=_work, args=(calls,), name=NAME, daemon=True).start()
    except RuntimeError as error:
        raise ThreadRefused(error) from error
    return calls


def _work(calls: _Calls) -> None:
    while work := calls.get():
        work()
        del work  # while the thread waits, it refers to nothing

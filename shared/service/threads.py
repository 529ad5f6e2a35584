# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Runs blocking calls in threads that the process does not wait for when it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

NAME: Final = "blocking call"

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
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
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

    try:
        threading.Thread(target=work, name=NAME, daemon=True).start()
    except RuntimeError as error:
        raise ThreadRefused(error) from error
    return future

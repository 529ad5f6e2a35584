# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Calls that block, in threads that the end of the process does not wait for."""

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


def run(call: Callable[[], T]) -> asyncio.Future[T]:
    """Run a call in a thread of its own, which the end of the process does not wait for, unlike an executor's."""
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
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it is for whoever awaits
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: the process is ending and nobody awaits
            log.debug("thread.answer_abandoned")

    threading.Thread(target=work, name=NAME, daemon=True).start()
    return future

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SIGTERM and SIGINT: from the first line of the program to the graceful stop. Imports nothing slow."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

SIGNALLED: Final = 128  # plus the number of the signal, as shells count

_STOPPING = (signal.SIGTERM, signal.SIGINT)


def exit_at_once() -> None:
    """End the process on a signal while it only imports: nothing has begun that would have to be finished.

    For `serve` that is a stop like any other, with status 0; a command ends with the status that says so.

    As process 1 of a container the default action of SIGTERM is to be ignored, so without a handler of our own a
    signal during the imports would be lost, and the container would run on until it is killed.
    """
    for number in _STOPPING:
        signal.signal(number, lambda came, _: os._exit(0 if sys.argv[1:2] == ["serve"] else SIGNALLED + came))


def end_as_usual() -> None:
    """Let Ctrl-C raise KeyboardInterrupt and SIGTERM end the process: a command has begun that is no service."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def cancelling(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> Iterator[list[signal.Signals]]:
    """Cancel a task at each signal; the list holds those that came."""
    came: list[signal.Signals] = []

    def cancel(number: signal.Signals) -> None:
        came.append(number)
        task.cancel()

    in_main = threading.current_thread() is threading.main_thread()  # no signal reaches another thread
    for number in _STOPPING if in_main else ():
        loop.add_signal_handler(number, cancel, number)
    try:
        yield came
    finally:
        for number in _STOPPING if in_main else ():
            loop.remove_signal_handler(number)


@contextmanager
def setting(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Set `stop` at the first signal; the second changes nothing, so that it costs no reply."""
    for number in _STOPPING:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # the process is on its way out, with its exit status decided

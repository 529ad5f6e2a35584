# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Handles signals from the start of the program to the graceful stop. Imports nothing slow."""

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

SIGNALLED: Final = 128  # plus the number of the signal: the exit status that shells use

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_OF_TERMINALS = (signal.SIGHUP, signal.SIGQUIT)
"""The terminal or the ssh session ends, or a supervisor stops a process in the way of nginx."""

_IGNORED = (signal.SIGUSR1, signal.SIGUSR2)
"""Tools that rotate logs send them; by default they would end `serve` at once, with its emails under way."""


def _heard(*numbers: signal.Signals) -> list[signal.Signals]:
    """Return the signals that end the program: not those of a terminal that `nohup` has switched off."""
    return [one for one in numbers if one in _STOPPING or signal.getsignal(one) is not signal.SIG_IGN]


def exit_at_once() -> None:
    """End the process at once on a signal, for the time of the imports: no work has begun that must be finished.

    `serve` ends with status 0, like any stop; other commands with 128 plus the number of the signal.

    Process 1 of a container ignores SIGTERM unless it has a handler. Without this one, a signal during the imports
    would be lost, and the container would run until it is killed. A parent that blocks signals while it starts the
    program passes the block on (podman-container-tools/podman#3452), and no handler would ever run.
    """
    if _is_serving():
        _ignore()
    for number in _heard(*_STOPPING, signal.SIGHUP):
        signal.signal(number, lambda came, _: os._exit(0 if _is_serving() else SIGNALLED + came))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOPPING, *_OF_TERMINALS))


def _is_serving() -> bool:
    return sys.argv[1:2] == ["serve"]


def _ignore() -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)


def end_as_usual() -> None:
    """Restore the default actions for a command: Ctrl-C raises KeyboardInterrupt, the others end the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in _heard(signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def cancelling(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> Iterator[list[signal.Signals]]:
    """Cancel a task at each signal; the signals that came are added to the list."""
    came: list[signal.Signals] = []

    def cancel(number: signal.Signals) -> None:
        came.append(number)
        task.cancel()

    in_main = threading.current_thread() is threading.main_thread()  # no signal reaches another thread
    numbers = _heard(*_STOPPING, signal.SIGHUP) if in_main else []
    for number in numbers:
        loop.add_signal_handler(number, cancel, number)
    try:
        yield came
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def setting(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Set `stop` at the first signal. Further signals have no effect, so that they do not cut off a reply."""
    _ignore()
    numbers = _heard(*_STOPPING, *_OF_TERMINALS)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # the process is ending, and its exit status is decided

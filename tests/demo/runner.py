# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Run the demo: from its first line to its exit status and its clean-up."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
import nats.errors

from tests.demo import by_hand, stack, steps
from tests.demo.check import Check
from tests.demo.interruption import Interruption

if TYPE_CHECKING:
    from tests.demo.screen import Screen
    from tests.demo.stack import Stack

LOG_LINES = 20
FAILURES = (OSError, RuntimeError, TimeoutError, nats.errors.Error, msgspec.MsgspecError)


async def run(screen: Screen, *, keep: bool) -> int:
    """Start everything, take all steps, stop everything; return the exit status."""
    started = time.monotonic()
    interruption = Interruption()
    screen.title("LFX email service: emails out, events in, queries answered")
    try:
        await _run(screen, interruption, keep=keep)
    except asyncio.CancelledError:
        screen.verdict("Interrupted. Everything is stopped.", is_right=False)
        return interruption.status
    except FAILURES as error:  # a server that does not start, a console script that is not installed
        screen.check(_failure(error))
    return _judge(screen, "" if keep else f", {time.monotonic() - started:.1f} s in total")


async def _run(screen: Screen, interruption: Interruption, *, keep: bool) -> None:
    async with stack.running() as running:
        try:
            await _perform(running, screen, interruption, keep=keep)
        except FAILURES as error:
            screen.check(_failure(error))
        finally:
            interruption.ignore()
        if screen.failed:
            _show_logs(running, screen)


async def _perform(running: Stack, screen: Screen, interruption: Interruption, *, keep: bool) -> None:
    email_ids = await steps.take(running, screen)
    if keep:
        await by_hand.leave_running(running, screen, email_ids, interruption)
    await steps.stop(running, screen)


def _show_logs(running: Stack, screen: Screen) -> None:
    for name, process in ((stack.RELAY, running.relay), (stack.TRACKER, running.tracker)):
        screen.heading(f"Last lines of {name}")
        screen.raw((process.output + process.errors).splitlines()[-LOG_LINES:])


def _failure(error: Exception) -> Check:
    text = str(error).partition("\n")[0]
    return Check("the demo runs to its end", "no error", f"{type(error).__name__}: {text}")


def _judge(screen: Screen, how_long: str) -> int:
    if screen.failed:
        screen.verdict(f"{len(screen.failed)} of {len(screen.checks)} checks failed.", is_right=False)
        return 1
    screen.verdict(f"All {len(screen.checks)} checks passed{how_long}.", is_right=True)
    return 0

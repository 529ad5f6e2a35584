# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A child process of the stack, which never outlives the process that started it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import IO

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


async def start(
    program: Path | str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    errors: IO[bytes] | int | None = None,
) -> asyncio.subprocess.Process:
    """Start the program; output is where stdout and stderr go (PIPE: two pipes), errors where stderr goes instead."""
    return await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
        # A demo killed by a signal runs no clean-up: without this its servers would never end.
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def signal_to(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a process, if it has not ended.

    Process.send_signal polls first, and may so take the exit code from asyncio's watcher.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def pause(process: asyncio.subprocess.Process) -> None:
    """Send SIGSTOP and return when all threads have stopped."""
    signal_to(process, signal.SIGSTOP)
    with contextlib.suppress(ChildProcessError):  # it has ended
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

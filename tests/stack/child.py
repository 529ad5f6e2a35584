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
    program: Path, *arguments: str, env: Mapping[str, str] | None = None, output: IO[bytes] | int | None = None
) -> asyncio.subprocess.Process:
    """Start the program; output is where stdout and stderr go (PIPE: two pipes)."""
    return await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # A demo that dies of SIGTERM runs no clean-up: without this its servers would stay for ever.
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def signal_to(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a process that may just have ended.

    Process.send_signal polls first, and so may take the exit code away from asyncio's own watcher.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def pause(process: asyncio.subprocess.Process) -> None:
    """SIGSTOP, and return when each of its threads has stopped: for a moment the others go on."""
    signal_to(process, signal.SIGSTOP)
    with contextlib.suppress(ChildProcessError):  # it has ended
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A child process of the stack, which does not outlive the process that started it (where util-linux has `setpriv`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

# A demo killed by a signal runs no clean-up: without this its servers would never end. It becomes the program. A
# preexec_fn would do the same, but copies the page tables of pytest at each start, and may hang beside other threads.
_SETPRIV = shutil.which("setpriv") or ""
_IS_USABLE = bool(_SETPRIV) and "busybox" not in os.path.realpath(_SETPRIV)  # that of BusyBox has no such option
_DIES_WITH_PARENT = [_SETPRIV, "--pdeathsig", "KILL", "--"] if _IS_USABLE else []

END_SECONDS = 60.0  # on a busy machine


async def start(
    program: Path | str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    errors: IO[bytes] | int | None = None,
) -> asyncio.subprocess.Process:
    """Start the program; output is where stdout and stderr go (PIPE: two pipes), errors where stderr goes instead."""
    return await asyncio.create_subprocess_exec(
        *_DIES_WITH_PARENT,
        str(program),
        *arguments,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
    )


def signal_to(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a process, if it has not ended.

    Process.send_signal polls first, and may so take the exit code from asyncio's watcher.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def ended(process: asyncio.subprocess.Process, timeout: float = END_SECONDS) -> int:
    """Wait for the end of a process and return its exit code.

    Raises:
        TimeoutError: it still runs after `timeout` seconds, or another process has its pipes.
    """
    try:
        async with asyncio.timeout(timeout):
            return await process.wait()
    except TimeoutError:
        message = f"process {process.pid} has not ended after {timeout} s, or its pipes are open: {_state(process.pid)}"
        raise TimeoutError(message) from None


def pause(process: asyncio.subprocess.Process) -> None:
    """Send SIGSTOP and return when all threads have stopped."""
    signal_to(process, signal.SIGSTOP)
    with contextlib.suppress(ChildProcessError):  # it has ended
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()[:100]
    except OSError:
        return "no such process"

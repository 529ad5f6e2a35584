# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A process of the benchmark, with its output in a file, which costs as little as a log in production."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stack import child, probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

READY = "ready"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOOK_AGAIN = 0.003
ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent


class Program:
    """A running process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.started_at = time.perf_counter()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended.

        Raises:
            RuntimeError: it failed.
        """
        if self._process.returncode:
            self._check_alive()
        return self._process.returncode is None

    async def wait_until_ready(self) -> None:
        """Return when a helper has printed READY."""
        async with asyncio.timeout(START_SECONDS):
            while READY not in self._log.read_text():
                self._check_alive()
                await asyncio.sleep(LOOK_AGAIN)

    async def wait_until_serving(self, port: int) -> float:
        """Return the seconds from the start of a service until /readyz is 200."""
        async with asyncio.timeout(START_SECONDS):
            while not await _is_serving(port):
                self._check_alive()
                await asyncio.sleep(LOOK_AGAIN)
        return time.perf_counter() - self.started_at

    async def end(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end in time."""
        child.signal_to(self._process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            child.signal_to(self._process, signal.SIGKILL)
            await self._process.wait()

    def _check_alive(self) -> None:
        if self._process.returncode is not None:
            raise RuntimeError(f"the process has ended:\n{self._log.read_text()[-3000:]}")


@asynccontextmanager
async def helper(module: str, *arguments: str, log: Path) -> AsyncIterator[Program]:
    """Run a module of the benchmark; return when it is ready."""
    command = ("-m", f"tests.bench.{module}", *arguments)
    async with running(Path(sys.executable), *command, env={"PYTHONPATH": str(ROOT)}, log=log) as program:
        await program.wait_until_ready()
        yield program


@asynccontextmanager
async def running(executable: Path, *arguments: str, env: Mapping[str, str], log: Path) -> AsyncIterator[Program]:
    """Run an executable with only these variables."""
    with log.open("wb") as output:
        process = await child.start(executable, *arguments, env=env, output=output)
    program = Program(process, log)
    try:
        yield program
    finally:
        await program.end()


async def _is_serving(port: int) -> bool:
    try:
        status, _ = await probe.get(port, "/readyz")
    except OSError:
        return False
    return status == 200

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A console script of this environment, started as a user starts it: by its name, with environment variables."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tests.stack import child, probe
from tests.stack.change import Change
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

START_SECONDS = 60.0  # on a busy machine; a process that ends is noticed at once
STOP_SECONDS = 30.0
_LOOK_AGAIN = 0.02


class Printed:
    """The output of one pipe, by line."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.change = Change()
        self._rest = b""

    @property
    def text(self) -> str:
        """The whole output, with an incomplete last line."""
        return (b"".join(self.lines) + self._rest).decode(errors="replace")

    async def read(self, pipe: asyncio.StreamReader) -> None:
        """Read until the pipe is closed; lines may be of any length."""
        while chunk := await pipe.read(65_536):
            *lines, self._rest = (self._rest + chunk).splitlines(keepends=True)
            if self._rest.endswith(b"\n"):
                lines.append(self._rest)
                self._rest = b""
            self.lines += lines
            self.change.notify()


class Console:
    """The running script: its output, its probes, its exit code."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._name = name
        self._process = process
        self._output = Printed()
        self._errors = Printed()
        self._events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._logs: list[dict[str, Any]] = []
        self._parsed = 0

    def __repr__(self) -> str:
        return f"<Console {self._name} pid={self.pid} exit={self.returncode}>"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.returncode

    @property
    def output(self) -> str:
        """Standard output so far."""
        return self._output.text

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return self._errors.text

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The complete lines of standard output that are JSON objects."""
        for line in self._output.lines[self._parsed :]:
            try:
                record = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:  # commands also print text
                continue
            self._logs.append(record)
            self._events[record.get("msg", "")].append(record)
        self._parsed = len(self._output.lines)
        return self._logs

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log records of one event."""
        _ = self.logs
        return self._events[event]

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send any signal; does nothing if the process has ended."""
        child.signal_to(self._process, number)

    async def wait(self, timeout: float = STOP_SECONDS) -> int:
        """Wait for the end of the process and return its exit code; the output is in the error of a timeout."""
        try:
            return await child.ended(self._process, timeout)
        except TimeoutError as error:
            message = f"{self!r}: {error}\n{self._printed()}"
            raise TimeoutError(message) from None

    async def get(self, path: str) -> tuple[int, str]:
        """GET a path of its probes; return status and body."""
        return await probe.get(self.port, path)

    async def wait_until_ready(self, timeout: float = START_SECONDS) -> None:
        """Return when /readyz is 200; raise RuntimeError with the output if the process ends before."""
        await self.wait_for_status("/readyz", 200, timeout)

    async def wait_for_status(self, path: str, status: int, timeout: float = 30.0) -> None:
        """Return when a probe answers with this status."""
        try:
            async with asyncio.timeout(timeout):
                while await self._status(path) != status:
                    self._check_alive()
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            message = f"{self!r}: {path} is not {status} after {timeout} s\n{self._printed()}"
            raise TimeoutError(message) from None

    async def wait_for_log(self, event: str, timeout: float = 30.0, count: int = 1) -> dict[str, Any]:
        """Return the latest record of an event when it was logged `count` times."""
        await self._output.change.wait_until(
            lambda: len(self.logged(event)) >= count,
            timeout,
            lambda: f"{self!r} has logged {event!r} {len(self.logged(event))} times\n{self._printed()}",
        )
        return self.logged(event)[-1]

    async def wait_for_lines(self, count: int, timeout: float = 30.0) -> list[str]:
        """Return the lines of standard output when there are `count`."""
        lines = self._output.lines
        await self._output.change.wait_until(lambda: len(lines) >= count, timeout, self._printed)
        return [line.decode() for line in lines]

    async def wait_for_error(self, text: str, timeout: float = 30.0) -> None:
        """Return when standard error contains this text."""
        await self._errors.change.wait_until(lambda: text in self.errors, timeout, self._printed)

    async def read(self) -> None:
        """Read the pipes that are the test's own until the process has closed them."""
        pipes = ((self._output, self._process.stdout), (self._errors, self._process.stderr))
        await asyncio.gather(*(printed.read(pipe) for printed, pipe in pipes if pipe))

    async def end(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end in time."""
        self.terminate()
        try:
            await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()

    async def _status(self, path: str) -> int | None:
        try:
            status, _ = await self.get(path)
        except OSError:
            return None
        return status

    def _check_alive(self) -> None:
        if self.returncode is not None:
            message = f"{self!r} has ended\n{self._printed()}"
            raise RuntimeError(message)

    def _printed(self) -> str:
        return f"stdout: {self.output[-4000:]}\nstderr: {self.errors[-4000:]}"


@asynccontextmanager
async def running(
    script: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    output: int = asyncio.subprocess.PIPE,
    errors: int = asyncio.subprocess.PIPE,
    through: tuple[str, ...] = (),
) -> AsyncIterator[Console]:
    """Run the script with only this environment and PATH; it listens on PORT, by default a free port.

    Standard output and standard error can be descriptors; the console then reads nothing. `through` is a program that
    becomes the script, such as `sh -c 'exec "$@" 2>&-' sh`.
    """
    given = {"PATH": os.environ.get("PATH", os.defpath), "PORT": str(free_port()), **(env or {})}
    program = Path(sys.executable).parent / script
    words = [*through, str(program), *arguments]
    process = await child.start(words[0], *words[1:], env=given, output=output, errors=errors)
    console = Console(" ".join([script, *arguments]), process, int(given["PORT"]))
    reading = asyncio.create_task(console.read(), name="console.read")
    try:
        yield console
    finally:
        await console.end()
        async with asyncio.timeout(STOP_SECONDS):  # another process may have its pipes
            await reading

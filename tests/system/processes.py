# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Relays and trackers that are started again whenever they end, as Kubernetes does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.stack import console

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.stack.console import Console

RESTART_SECONDS = 0.3


class Replica:
    """One replica of a process over all its restarts."""

    def __init__(self, script: str, number: int, environment: Mapping[str, str]) -> None:
        self.name = f"{script.removeprefix('lfx-email-')} {number}"
        self.logs: list[dict[str, Any]] = []
        self.restarts = 0
        self._script = script
        self._environment = environment
        self._running: Console | None = None
        self._stopping = False

    async def run(self) -> None:
        """Run the process again and again until `stop`."""
        while not self._stopping:
            async with console.running(self._script, "serve", env=self._environment) as process:
                self._running = process
                await process.wait(timeout=86_400)
                self.logs += process.logs
            self._running = None
            self.restarts += 1
            await asyncio.sleep(RESTART_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        if self._running:
            self._running.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        if self._running:
            self._running.terminate()

    async def restart(self) -> None:
        """SIGTERM; return when the next process is ready."""
        before = self.restarts
        self.terminate()
        async with asyncio.timeout(60):
            while self.restarts == before:
                await asyncio.sleep(0.05)
        await self.wait_until_ready()

    def stop(self) -> None:
        """SIGTERM, without another start."""
        self._stopping = True
        self.terminate()

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the process answers requests."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    if self._running and (await self._running.get("/readyz"))[0] == 200:
                        return
                except OSError:
                    pass
                await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        assert self._running
        _, text = await self._running.get("/metrics")
        lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event over all restarts."""
        now = self._running.logs if self._running else []
        return [line for line in [*self.logs, *now] if line.get("msg") == event]


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    """Run replicas for the block; entered when all are ready, left when all have ended."""
    async with asyncio.TaskGroup() as tasks:
        for replica in replicas:
            tasks.create_task(replica.run())
        try:
            await asyncio.gather(*(replica.wait_until_ready() for replica in replicas))
            yield
        finally:
            for replica in replicas:
                replica.stop()

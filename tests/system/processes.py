# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Relays and trackers that are started again whenever they end, as Kubernetes does, and their buckets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from nats.js.api import KeyValueConfig

from tests.stack import bucket, console

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from nats.aio.client import Client

    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

RESTART_SECONDS = 0.3
BUCKETS = ("email-recipients", "email-group-index", "email-idempotency", "email-suppressions")


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


def relay(number: int, nats_url: str, smtp: SmtpServer, **variables: str) -> Replica:
    """Return a relay that sends through `smtp`."""
    environment = {"NATS_URL": nats_url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port), **variables}
    return Replica("lfx-email-relay", number, environment)


def tracker(number: int, nats_url: str, sqs: SqsEndpoint, **variables: str) -> Replica:
    """Return a tracker that receives from `sqs`, with a name of its own in the credentials of its calls."""
    environment = {
        "NATS_URL": nats_url,
        "SES_EVENTING_ENABLED": "true",
        "SES_ENGAGEMENT_SQS_QUEUE_URL": sqs.queue_url,
        "AWS_REGION": "us-west-2",
        "AWS_ACCESS_KEY_ID": f"tracker-{number}",
        "AWS_SECRET_ACCESS_KEY": "tracker",
        **variables,
    }
    return Replica("lfx-email-tracker", number, environment)


async def create_buckets(client: Client, *, replicas: int = 1) -> None:
    """Create the buckets of both processes."""
    jetstream = client.jetstream(timeout=10)
    for name in BUCKETS:
        await bucket.create(jetstream, KeyValueConfig(name, history=1, direct=True, replicas=replicas))

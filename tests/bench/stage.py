# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The processes of a scenario: nats-server with both buckets, and on request the services and other servers."""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import buckets, caller, program, smtp_load, sqs_feed
from tests.bench.smtp_load import Target
from tests.stack import nats_server
from tests.stack.certificates import Certificates
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from tests.bench.caller import Caller
    from tests.bench.options import Options
    from tests.bench.program import Program
    from tests.bench.sqs_feed import Feed
    from tests.stack.nats_server import NatsServer

_SHOWN = 500  # characters of a log that are shown when a scenario fails
MEGA = 1 << 20
RELAY, TRACKER = "lfx-email-relay", "lfx-email-tracker"


class Stage:
    """The running nats-server, a connection to it, and a directory for the output of the processes."""

    def __init__(self, home: Path, nats: NatsServer, caller: Caller, options: Options) -> None:
        self.nats_url = nats.url
        self.nats_pid = nats.pid
        self.caller = caller
        self.options = options
        self.certificates = Certificates(home)
        self._home = home
        self._store = nats.store
        self._logs = 0

    @asynccontextmanager
    async def service(self, script: str, **settings: str) -> AsyncIterator[Program]:
        """Run a service by its console script; enter the block when it serves."""
        port = free_port()
        async with self.start(script, port, **settings) as running:
            await running.wait_until_serving(port)
            yield running

    def start(self, script: str, port: int, **settings: str) -> AbstractAsyncContextManager[Program]:
        """Run a service by its console script with only these settings, without waiting until it serves."""
        command = [] if self.options.program else ["serve"]
        return self.command(script, *command, PORT=str(port), SHUTDOWN_TIMEOUT_SECONDS="3", **settings)

    def command(self, script: str, *arguments: str, **settings: str) -> AbstractAsyncContextManager[Program]:
        """Run a command with only these settings; it is ended with the block."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "NATS_URL": self.nats_url, **settings}
        if self.options.code:
            environment["PYTHONPATH"] = str(self.options.code)
        executable = self.options.program or program.SCRIPTS / script
        return program.running(executable, *arguments, env=environment, log=self._log(script))

    def relay(self, target: Target, **settings: str) -> AbstractAsyncContextManager[Program]:
        """Run a relay that delivers to the sink."""
        to_sink = {"EMAIL_ENABLED": "true", "SMTP_HOST": "localhost", "SMTP_PORT": str(target.port)}
        if target.tls:
            username, password = smtp_load.CREDENTIALS
            to_sink |= {"SMTP_USERNAME": username, "SMTP_PASSWORD": password, "SMTP_TLS": "required"}
            to_sink["SSL_CERT_FILE"] = str(self.certificates.ca_file)
        return self.service(RELAY, **to_sink, **settings)

    def tracker(self, feed: Feed | None = None, **settings: str) -> AbstractAsyncContextManager[Program]:
        """Run a tracker, with eventing if there is a queue."""
        return self.service(TRACKER, **(eventing(feed) if feed else {}), **settings)

    def helper(self, module: str, *arguments: str) -> AbstractAsyncContextManager[Program]:
        """Run a module of the benchmark beside the service."""
        return program.helper(module, *arguments, log=self._log(module))

    @asynccontextmanager
    async def sink(self, *, delay: float = 0.0, tls: bool = False, pipelining: bool = False) -> AsyncIterator[Target]:
        """Run an SMTP sink."""
        port = free_port()
        files = [str(self.certificates.cert_file), str(self.certificates.key_file)] if tls else []
        async with self.helper("smtp_sink", str(port), str(delay), str(int(pipelining)), *files):
            yield Target(port, self.certificates.client_context() if tls else None, pipelining)

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[Feed]:
        """Run an SQS endpoint with an empty queue."""
        port, socket = free_port(), str(self._home / "sqs.socket")
        async with self.helper("sqs_server", str(port), socket), sqs_feed.connected(port, socket) as feed:
            yield feed

    def disk_mb(self) -> float:
        """Return the size of the files of nats-server."""
        return sum(file.stat().st_size for file in self._store.rglob("*") if file.is_file()) / MEGA

    def _log(self, name: str) -> Path:
        self._logs += 1
        return self._home / f"{name}-{self._logs}.log"


def eventing(feed: Feed) -> dict[str, str]:
    """Return the settings that let a tracker poll the queue."""
    return {
        "SES_EVENTING_ENABLED": "true",
        "SES_ENGAGEMENT_SQS_QUEUE_URL": feed.queue_url,
        "AWS_ENDPOINT_URL_SQS": feed.endpoint_url,  # for programs that take only the region from the queue's URL
        "AWS_REGION": "us-west-2",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
    }


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Stage]:
    """Run nats-server with both buckets; remove all files afterwards."""
    with tempfile.TemporaryDirectory(prefix="lfx-email-bench-") as directory:
        async with nats_server.running() as nats, caller.connected(nats.url) as connected:
            await buckets.create(connected)
            try:
                yield Stage(Path(directory), nats, connected, options)
            except Exception as error:
                _add_logs(error, Path(directory))
                raise


def _add_logs(error: Exception, home: Path) -> None:
    for log in sorted(home.glob("*.log")):
        error.add_note(f"{log.stem}: {log.read_text()[-_SHOWN:]}")

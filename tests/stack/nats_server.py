# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The real nats-server with JetStream, alone or as a cluster; it can be killed, paused and restarted on its store."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stack import child, probe
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

START_SECONDS = 60.0  # on a busy machine

_CONFIG = """
server_name: {name}
listen: 127.0.0.1:{port}
http: 127.0.0.1:{monitor_port}
jetstream {{ store_dir: "{store}", max_memory_store: 1GB, max_file_store: 20GB }}
{extra}
"""
_CLUSTER = """
cluster {{ name: stack, listen: 127.0.0.1:{route}, routes: [{routes}] }}
"""


class NatsServer:
    """One nats-server process on its port and store."""

    def __init__(self, home: Path, *, store: Path, name: str = "n1", port: int | None = None, extra: str = "") -> None:
        self.name = name
        self.store = store
        self.port = port or free_port()
        self.monitor_port = free_port()
        self._config = home / f"{name}.conf"
        self._log = home / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self.configure(extra)

    def __repr__(self) -> str:
        return f"<NatsServer {self.name} {self.url} {'running' if self.is_running else 'stopped'}>"

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process runs (also a paused one)."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def log(self) -> str:
        """The log of the server, of all its starts."""
        return self._log.read_text()

    def configure(self, extra: str) -> None:
        """Write the configuration for the next start."""
        self._greets = "handshake_first: true" not in extra
        self._config.write_text(
            _CONFIG.format(
                name=self.name, port=self.port, monitor_port=self.monitor_port, store=self.store, extra=extra
            )
        )

    async def start(self) -> None:
        """Start or restart on the same port and store; return when it accepts clients and JetStream is enabled."""
        if self.is_running:
            message = f"{self!r} already runs"
            raise RuntimeError(message)
        with self._log.open("ab") as log:
            self._process = await child.start(
                Path(sys.executable).parent / "nats-server", "--config", str(self._config), output=log
            )
        await (self._wait_for_info() if self._greets else self.wait_until_healthy())

    async def stop(self) -> None:
        """Send SIGTERM and wait for the end of the process."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end of the process."""
        await self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open, nothing is answered."""
        child.pause(self._running())

    def resume(self) -> None:
        """Send SIGCONT."""
        child.signal_to(self._running(), signal.SIGCONT)

    def reload(self) -> None:
        """Send SIGHUP: the server reads its configuration again."""
        child.signal_to(self._running(), signal.SIGHUP)

    async def load(self, extra: str) -> None:
        """Let the server read this configuration; return when it is in use: during a reload it has no responders."""
        loaded = self._loaded()
        self.configure(extra)
        self.reload()
        await until(lambda: self._loaded() > loaded)

    async def wait_until_healthy(self, timeout: float = START_SECONDS) -> None:
        """Return when /healthz is fine: JetStream has recovered, and in a cluster has a meta leader and caught up."""
        await until(self._answers_health, timeout=timeout)

    async def wait_until_it_knows(self, servers: int) -> None:
        """Return when the server tells its clients the URLs of so many servers of the cluster, itself among them."""

        async def knows() -> bool:
            _, body = await probe.get(self.monitor_port, "/varz")
            return len(json.loads(body).get("connect_urls", ())) == servers

        await until(knows, timeout=START_SECONDS)

    async def meta_leader(self) -> str | None:
        """Return the name of the meta leader that this server reports."""
        _, body = await probe.get(self.monitor_port, "/jsz")
        leader = json.loads(body).get("meta_cluster", {}).get("leader")
        return str(leader) if leader else None

    def _loaded(self) -> int:
        return self.log.count("Reloaded server configuration")

    async def _end(self, how: signal.Signals) -> None:
        if not self.is_running:
            return
        process = self._running()
        child.signal_to(process, signal.SIGCONT)
        child.signal_to(process, how)
        await child.ended(process)

    async def _wait_for_info(self) -> None:
        try:
            await until(self._has_jetstream, timeout=START_SECONDS)
        except (TimeoutError, RuntimeError) as error:
            message = f"{self!r} does not start:\n{self.log[-3000:]}"
            raise RuntimeError(message) from error

    async def _has_jetstream(self) -> bool:
        self._running()
        return bool((await self._info()).get("jetstream"))

    async def _info(self) -> dict[str, object]:
        """Return the server's first line, which needs no credentials and comes before TLS."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return {}
        try:
            line = await reader.readline()
        except OSError:
            return {}
        finally:
            writer.close()
        info: dict[str, object] = json.loads(line.removeprefix(b"INFO ") or b"{}")
        return info

    async def _answers_health(self) -> bool:
        try:
            status, _ = await probe.get(self.monitor_port, "/healthz")
        except OSError:
            return False
        return status == 200

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            message = f"{self!r} does not run"
            raise RuntimeError(message)
        return self._process


@asynccontextmanager
async def running(
    config_extra: str = "", port: int | None = None, store: Path | None = None
) -> AsyncIterator[NatsServer]:
    """Run one server; its store is removed at the end, unless it is given."""
    with _home() as path:
        home = Path(path)
        server = NatsServer(home, store=store or home / "n1", port=port, extra=config_extra)
        try:
            await server.start()
            await server.wait_until_healthy()
            yield server
        finally:
            await (server.stop() if store else server.kill())


@asynccontextmanager
async def cluster(size: int = 3, config_extra: str = "") -> AsyncIterator[list[NatsServer]]:
    """Run servers n1, n2 … as one JetStream cluster; enter the block when all know each other and one meta leader."""
    routes = [free_port() for _ in range(size)]
    known = ", ".join(f"nats://127.0.0.1:{route}" for route in routes)
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(_home()))
        servers = [
            NatsServer(
                home,
                store=home / f"n{number}",
                name=f"n{number}",
                extra=_CLUSTER.format(route=route, routes=known) + config_extra,
            )
            for number, route in enumerate(routes, 1)
        ]
        for server in servers:
            stack.push_async_callback(server.kill)
        await asyncio.gather(*(server.start() for server in servers))
        await wait_for_leader(servers)
        for server in servers:
            await server.wait_until_it_knows(size)
        yield servers


async def wait_for_leader(servers: Sequence[NatsServer], timeout: float = 30.0) -> NatsServer:
    """Return the meta leader when every running server is healthy and reports the same one."""

    async def leader() -> NatsServer | None:
        alive = [server for server in servers if server.is_running]
        for server in alive:
            await server.wait_until_healthy(timeout)
        leaders = {await server.meta_leader() for server in alive}
        return next((server for server in alive if leaders == {server.name}), None)

    found = await until(leader, timeout=timeout)
    assert found
    return found


def _home() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory for configurations, logs and stores."""
    return tempfile.TemporaryDirectory(prefix="nats-", ignore_cleanup_errors=True)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Servers that begin with TLS (`handshake_first`) and servers that begin with INFO, without a setting for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from shared.nats import client
from tests.shared.connections import connected as connect
from tests.shared.connections import events, has_reconnected, opening, was_never_lost
from tests.stack import nats_server as servers
from tests.stack.certificates import Certificates
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.stack.nats_server import NatsServer

TLS_FIRST = ", handshake_first: true"
INFO_FIRST = ""
LOOK_UP = socket.getaddrinfo
ORDERS = ["true", "auto", '"300ms"', "false", "true, timeout: 0.3", '"1.5s"']


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """A certificate authority that the client trusts."""
    made = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca_file))
    return made


@pytest.fixture(autouse=True)
def patience(impatience: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - the other times
    """Begin the handshake after 0.2 s of silence."""
    monkeypatch.setattr(client, "INFO_SECONDS", 0.2)


@asynccontextmanager
async def running(certificates: Certificates, more: str) -> AsyncIterator[NatsServer]:
    """Run a server with TLS."""
    async with servers.running(certificates.nats_tls(more)) as server:
        yield server


def tls(server: NatsServer, user_info: str = "") -> str:
    return server.url.replace("nats://", f"tls://{user_info}")


@pytest.mark.parametrize("order", ORDERS)
async def test_a_tls_url_connects_in_each_order_of_the_server(order: str, certificates: Certificates) -> None:
    async with (
        running(certificates, f", handshake_first: {order}") as server,
        asyncio.timeout(20),
        connect(tls(server)) as connected,
    ):
        assert (await connected.client.rtt()) > 0


@pytest.mark.parametrize("order", [TLS_FIRST, INFO_FIRST])
async def test_a_dot_at_the_end_of_the_name_is_not_compared_with_the_certificate(
    order: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a name is looked up at once, without the search domains of the pod."""
    looked_up: list[str] = []

    def look_up(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        looked_up.append(host)
        return LOOK_UP(host.rstrip("."), *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with running(certificates, order) as server:
        url = tls(server).replace("127.0.0.1", "localhost.")
        async with asyncio.timeout(5), connect(url) as connected:
            assert (await connected.client.rtt()) > 0
            await connected.payload_limit(2_000_000)
    assert "localhost." in looked_up


@pytest.mark.parametrize("order", [TLS_FIRST, INFO_FIRST])
async def test_a_limit_that_was_lowered_is_asked_for_over_tls_and_the_server_logs_no_error(
    order: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(certificates, order) as server, connect(tls(server)) as connected:
        errors = server.log.count("[ERR]")  # of the stack, which waits for INFO
        await server.load(certificates.nats_tls(order) + "\nmax_payload: 8KB")
        assert await connected.payload_limit(100_000) == 8192
        assert was_never_lost(connected)
        await connected.flush()
        assert server.log.count("[ERR]") == errors
        assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize(("before", "after"), [(TLS_FIRST, INFO_FIRST), (INFO_FIRST, TLS_FIRST), (TLS_FIRST,) * 2])
async def test_a_connection_comes_back_after_the_server_was_configured_anew(
    before: str, after: str, certificates: Certificates
) -> None:
    async with running(certificates, before) as server, connect(tls(server)) as connected:
        await server.stop()
        await until(lambda: not connected.connected)
        server.configure(certificates.nats_tls(after))
        await server.start()
        await until(lambda: has_reconnected(connected))
        assert (await connected.client.rtt()) > 0
        await server.stop()
        server.configure(certificates.nats_tls(before))
        await server.start()
        await until(lambda: connected.connected and connected.client.stats["reconnects"] == 2)


async def test_the_order_of_a_server_is_remembered(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(certificates, TLS_FIRST) as server, connect(tls(server)) as connected:
        monkeypatch.setattr(client, "INFO_SECONDS", 600)  # the connection does not wait for INFO again
        await connected.client.force_reconnect()
        await until(lambda: has_reconnected(connected))


async def test_an_unknown_certificate_is_refused_in_either_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(tmp_path)
    for order in (TLS_FIRST, INFO_FIRST):
        caplog.clear()
        async with running(certificates, order) as server, opening(tls(server, "u:s3cret@")) as connecting:
            await until(lambda: len(events(caplog, "nats.error")) > 2)
            assert all("CERTIFICATE_VERIFY_FAILED" in error for error in events(caplog, "nats.error"))
            assert not connecting.done()


async def test_a_wrong_password_is_reported_by_a_server_that_begins_with_tls(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    users = "\nauthorization { user: u, password: right }"
    async with (
        servers.running(certificates.nats_tls(TLS_FIRST) + users) as server,
        opening(tls(server, "u:wrong@")) as connecting,
    ):
        await until(lambda: sum("authorization" in error.lower() for error in events(caplog, "nats.error")) > 2)
        assert not connecting.done()


async def test_a_server_whose_info_comes_late_is_connected_at_the_second_or_third_attempt(
    certificates: Certificates,
) -> None:
    async with (
        running(certificates, INFO_FIRST) as server,
        slow(server.port, 0.3) as port,
        asyncio.timeout(15),
        connect(f"tls://127.0.0.1:{port}") as connected,
    ):
        assert connected.connected


@asynccontextmanager
async def slow(target: int, seconds: float) -> AsyncIterator[int]:
    """Forward connections, and delay each INFO."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(delay)
            delay = 0
            writer.write(data)
        writer.close()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", target)
        with contextlib.suppress(OSError):
            await asyncio.gather(copy(reader, requests, 0), copy(answers, writer, seconds))

    server = await asyncio.start_server(link, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_cluster_whose_servers_begin_with_tls_is_followed(certificates: Certificates) -> None:
    async with (
        servers.cluster(config_extra=certificates.nats_tls(TLS_FIRST)) as cluster,
        asyncio.timeout(20),
        connect(tls(cluster[0])) as connected,
    ):
        await until(lambda: len(connected.client.servers) >= 3)
        await cluster[0].kill()
        await until(lambda: has_reconnected(connected))

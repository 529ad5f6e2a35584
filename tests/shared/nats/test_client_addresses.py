# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The client and a server whose name has several addresses, or of whose URLs one is dead."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.shared.connections import connected as connect
from tests.shared.connections import has_reconnected
from tests.stack import nats_server as servers
from tests.stack.certificates import Certificates
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stack.nats_server import NatsServer

NAME = "localhost"
OTHER = "127.0.0.2"
LOOK_UP = socket.getaddrinfo


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` has the addresses 127.0.0.2 and 127.0.0.1, in this order."""

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        hosts = (OTHER, "127.0.0.1") if host == NAME else (host,)
        return [info for one in hosts for info in LOOK_UP(one, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@contextmanager
def dropping(port: int) -> Iterator[None]:
    """Let 127.0.0.2 drop SYNs: the queue of a listener that accepts nothing is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((OTHER, port))
        listener.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex((OTHER, port))
        yield


@contextmanager
def refusing(_port: int) -> Iterator[None]:
    """Let 127.0.0.2 refuse connections."""
    yield


@contextmanager
def accepting(port: int) -> Iterator[None]:
    """Let 127.0.0.2 accept connections and send nothing."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((OTHER, port))
        listener.listen(100)
        yield


DEAD = {"drops": dropping, "refuses": refusing, "accepts and never greets": accepting}


@pytest.mark.usefixtures("two_addresses", "impatience")
@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD)
async def test_a_dead_address_of_a_name_does_not_hide_the_others(dead: Any) -> None:
    async with servers.running() as server:
        with dead(server.port):
            async with asyncio.timeout(20), connect(f"nats://{NAME}:{server.port}") as connected:
                assert connected.connected
                await server.stop()
                await until(lambda: not connected.connected)
                await server.start()
                await until(lambda: has_reconnected(connected), timeout=20)


@pytest.mark.usefixtures("two_addresses", "impatience")
async def test_an_address_that_dies_later_is_left(nats_server: NatsServer) -> None:
    links: list[asyncio.StreamWriter] = []

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", nats_server.port)
        links.extend((writer, requests))
        await asyncio.gather(copy(reader, requests), copy(answers, writer), return_exceptions=True)

    server = await asyncio.start_server(link, OTHER, nats_server.port)
    async with connect(f"nats://{NAME}:{nats_server.port}") as connected:
        assert links
        server.close()
        with dropping(nats_server.port):
            for writer in links:
                writer.close()
            await until(lambda: has_reconnected(connected), timeout=20)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end."""
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


@pytest.mark.usefixtures("two_addresses")
async def test_the_certificate_is_checked_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    async with servers.running(certificates.nats_tls()) as server:
        with dropping(server.port):
            async with asyncio.timeout(20), connect(f"tls://{NAME}:{server.port}") as connected:
                assert (await connected.client.rtt()) > 0


async def test_a_dead_url_costs_little_time_each_round() -> None:
    async with servers.running() as server:
        port = free_port()
        with dropping(port):
            for urls in (f"nats://{OTHER}:{port},{server.url}", f"{server.url},nats://{OTHER}:{port}"):
                began = time.monotonic()
                async with connect(urls) as connected:
                    assert connected.server.endswith(str(server.port))
                    assert time.monotonic() - began < 15, "a SYN is repeated for minutes"

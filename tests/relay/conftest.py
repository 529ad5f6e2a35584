# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The real servers that the relay is tested with, and our connections to them."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import uvloop

from shared.index_writer import IndexWriter
from shared.nats import connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.relay.kv import Buckets
from tests.stack import certificates as authorities
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers
from tests.stack import scripted_smtp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from shared.nats.connection import Connection
    from tests.stack.certificates import Certificates
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer
    from tests.stack.scripted_smtp import ScriptedSmtp

TEST_NET = ("192.0.2.1", 9)  # RFC 5737: no host has it; a datagram socket only asks the routing table


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on uvloop, as the relay does; tests of transports also run on the loop of asyncio."""
    both = item.path.name in {
        "test_closing.py",
        "test_connection.py",
        "test_dialogue.py",
        "test_lost_connection.py",
        "test_opening.py",
    }
    return {"uvloop": uvloop.new_event_loop} | ({"asyncio": asyncio.new_event_loop} if both else {})


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server() -> AsyncIterator[NatsServer]:
    """One nats-server with JetStream for all tests; each test has buckets of its own."""
    async with servers.running() as server:
        yield server


@pytest.fixture
async def nats_proxy(nats_server: NatsServer) -> AsyncIterator[NatsProxy]:
    """A proxy in front of the nats-server."""
    async with proxies.running(nats_server.url) as proxy:
        yield proxy


@pytest.fixture
async def nats_connection(nats_proxy: NatsProxy) -> AsyncIterator[Connection]:
    """Our connection, through the proxy."""
    async with connection.opened(ProcessSettings(nats_url=nats_proxy.url), "tests") as opened:
        yield opened


@pytest.fixture
async def buckets(nats_server: NatsServer) -> AsyncIterator[Buckets]:
    """Two buckets for this test, reached without the proxy."""
    async with Buckets.created(nats_server.url) as created:
        yield created


@pytest.fixture
async def inbox(nats_connection: Connection) -> AsyncIterator[Inbox]:
    """Our inbox, through the proxy."""
    async with Inbox(nats_connection) as opened:
        yield opened


@pytest.fixture
def index_writer(inbox: Inbox, nats_connection: Connection, buckets: Buckets) -> IndexWriter:
    """A relay's writer to the test's group index, through the proxy."""
    return IndexWriter(buckets.group_index(inbox, nats_connection))


@pytest.fixture
async def smtp() -> AsyncIterator[ScriptedSmtp]:
    """An SMTP server that accepts everything until the test gives it a script."""
    async with scripted_smtp.running() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and the certificates it has signed."""
    directory: Path = tmp_path_factory.mktemp("certificates")
    return authorities.Certificates(directory)


@pytest.fixture
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """The authority, trusted by this machine."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    return certificates


@pytest.fixture
def other_host() -> str:
    """An address of this machine that looks like the address of another host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(TEST_NET)
        except OSError:
            pytest.skip("this machine has only loopback addresses")
        return str(probe.getsockname()[0])

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The probes over real sockets: the answers to a kubelet, to Prometheus and to other clients."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from typing import TYPE_CHECKING

import pytest

from shared.service import probes
from shared.service.probes import Probes
from shared.service.settings import SettingsError
from tests.stack.ports import free_port
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Listening:
    """Probes whose obstacle a test sets."""

    def __init__(self) -> None:
        self.port = free_port()
        self.obstacle = "NATS is not connected"

    async def ask(self, wire: bytes, host: str = "127.0.0.1") -> bytes:
        """Send bytes and return the whole answer."""
        reader, writer = await asyncio.open_connection(host, self.port)
        writer.write(wire)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer

    async def get(self, path: str, host: str = "127.0.0.1") -> tuple[str, bytes]:
        """Return the status line and the body."""
        head, _, body = (await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), host)).partition(
            b"\r\n\r\n"
        )
        return head.partition(b"\r\n")[0].decode(), body


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    """Probes on a free port."""
    one = Listening()
    async with Probes(one.port, lambda: one.obstacle, lambda: b"emails 1\n"):
        yield one


async def test_each_path_has_its_answer(listening: Listening) -> None:
    assert await listening.get("/livez") == ("HTTP/1.1 200 OK", b"OK\n")
    assert await listening.get("/readyz") == ("HTTP/1.1 503 Service Unavailable", b"NATS is not connected\n")
    listening.obstacle = ""
    assert await listening.get("/readyz?verbose") == ("HTTP/1.1 200 OK", b"OK\n")
    assert await listening.get("/metrics") == ("HTTP/1.1 200 OK", b"emails 1\n")
    assert (await listening.get("/"))[0] == "HTTP/1.1 404 Not Found"


@pytest.mark.parametrize("target", ["http://relay:8080/livez", "HTTPS://[::1]:1/livez?a=http://b", "http://x/livez?"])
async def test_a_target_may_be_a_whole_url(listening: Listening, target: str) -> None:
    """As clients with a proxy send it, and each server has to accept it (honojs/node-server#228)."""
    assert await listening.get(target) == ("HTTP/1.1 200 OK", b"OK\n")


async def test_ipv4_and_ipv6_are_served(listening: Listening) -> None:
    for host in ("127.0.0.1", "::1"):
        assert (await listening.get("/livez", host))[1] == b"OK\n"


async def test_other_methods_are_not_allowed_and_head_has_no_body(listening: Listening) -> None:
    assert (await listening.ask(b"POST /livez HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
    head = await listening.ask(b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("accepted", "used"),
    [
        ("gzip", "gzip"),
        ("deflate, GZIP;q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; q=0.000", "identity"),
        ("identity, br", "identity"),
        ("", "identity"),
    ],
)
async def test_metrics_are_compressed_for_a_client_that_accepts_it(
    listening: Listening, accepted: str, used: str
) -> None:
    request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accepted}\r\n\r\n".encode()
    head, _, body = (await listening.ask(request)).partition(b"\r\n\r\n")
    is_compressed = b"Content-Encoding: gzip" in head
    assert is_compressed == (used == "gzip")
    assert b"Vary: Accept-Encoding" in head
    assert (gzip.decompress(body) if is_compressed else body) == b"emails 1\n"
    assert b"gzip" not in await listening.ask(request.replace(b"/metrics", b"/livez"))


@pytest.mark.parametrize("wire", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n", b"\r\n" * 9])
async def test_an_invalid_request_does_not_affect_the_next_one(listening: Listening, wire: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    writer.write(wire)
    writer.write_eof()
    assert (await listening.get("/livez"))[1] == b"OK\n"
    writer.close()


async def test_a_silent_client_is_disconnected(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "REQUEST_TIMEOUT_SECONDS", 0.1)
    assert await listening.ask(b"GET /li") == b""


async def test_a_client_that_sends_its_request_byte_by_byte_is_disconnected(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "REQUEST_TIMEOUT_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: ")

    async def send() -> None:
        while not reader.at_eof():
            writer.write(b"x")
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(send())
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    sending.cancel()
    writer.close()


@pytest.mark.parametrize(
    "start", [b"GET /livez HTTP/1.1\r\nX: ", b"GET /", b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 9_999]
)
async def test_a_request_without_end_is_refused(listening: Listening, start: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    writer.write(start + b"x" * 40_000)
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_a_client_that_does_not_read_its_answer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "REQUEST_TIMEOUT_SECONDS", 0.1)
    port, size = free_port(), 50_000_000
    async with Probes(port, str, lambda: bytes(size)) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: serving.connections, (1).__eq__)
        await until(lambda: serving.connections, (0).__eq__)
        with contextlib.suppress(ConnectionResetError):
            assert len(await reader.read()) < size
        writer.close()


async def test_a_probe_is_answered_while_hundreds_of_clients_send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "REQUEST_TIMEOUT_SECONDS", 600)
    listening = Listening()
    async with Probes(listening.port, str) as serving:
        idle = [await asyncio.open_connection("127.0.0.1", listening.port) for _ in range(300)]
        await until(idle[299 - probes.MAX_CONNECTIONS][0].at_eof)
        assert serving.connections <= probes.MAX_CONNECTIONS
        assert (await listening.get("/livez"))[1] == b"OK\n"
        assert not idle[-1][0].at_eof(), "the oldest ones are disconnected"
        for _, writer in idle:
            writer.close()


async def test_leaving_disconnects_the_clients() -> None:
    port = free_port()
    async with Probes(port, str) as serving:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: serving.connections)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()


async def test_a_port_in_use_is_an_error_with_its_number() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^PORT: cannot listen on {port}: .* in use$"):
            async with Probes(port, str):
                pass

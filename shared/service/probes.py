# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Serves HTTP: `/livez` (200 while the process runs), `/readyz` (200 while it can serve) and `/metrics`."""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import re
import socket
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import h11

from shared.service.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS: Final = 5  # from the connection to the end of the answer
READ_BYTES: Final = 4096
MAX_HEAD_BYTES: Final = 16_384  # of a request: its first line and its headers
GZIP_LEVEL: Final = 1  # a fifth of the time of the default, for 20 % more bytes
MAX_CONNECTIONS: Final = 64
"""At more, the oldest is disconnected: a probe sends its request at once and is answered within milliseconds."""


# Clients with a proxy send them before the path (RFC 9112, 3.2.2).
_SCHEME_AND_HOST = re.compile(rb"^https?://[^/?]*", re.IGNORECASE)


class Probes:
    """Listens on IPv6 and IPv4, as far as the host has them, as long as its context is open."""

    def __init__(self, port: int, obstacle: Callable[[], str], metrics: Callable[[], bytes] = bytes) -> None:
        """Call `obstacle` for each request of /readyz, which is 503 with its text unless it is empty; and `metrics`."""
        self._port = port
        self._obstacle = obstacle
        self._metrics = metrics
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.StreamWriter, None] = {}  # in the order of their arrival

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            SettingsError: the port is in use or not permitted.
        """
        try:
            for listener in _listeners(self._port):
                server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_HEAD_BYTES)
                self._servers.append(server)
        except OSError as error:
            raise SettingsError(f"PORT: cannot listen on {self._port}: {error.strerror or error}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, and disconnect the clients."""
        for server in self._servers:
            server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._add(writer)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                answer = await self._exchange(reader)
                if writer.is_closing():  # the client has left, or was disconnected
                    return
                writer.write(answer)
                await writer.drain()
            writer.close()
        except (OSError, TimeoutError) as error:
            log.debug("probe.failed", extra={"error": repr(error)})
        finally:
            if not writer.is_closing():  # else closing waits for the client to read
                writer.transport.abort()
            self._connections.pop(writer, None)

    def _add(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` waits until the system has all bytes
        self._connections[writer] = None
        if len(self._connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            while not isinstance(event := http.next_event(), h11.Request):
                if event is not h11.NEED_DATA:
                    return b""
                http.receive_data(await reader.read(READ_BYTES))
        except h11.RemoteProtocolError as error:
            return _response(http, error.error_status_hint, b"bad request\n")
        path = _SCHEME_AND_HOST.sub(b"", event.target).partition(b"?")[0]
        status, body = self._answer(event.method, path)
        headers = {}
        if path == b"/metrics" and status == HTTPStatus.OK:
            headers = {"Vary": "Accept-Encoding"}
            if _accepts_gzip(event.headers):
                headers["Content-Encoding"] = "gzip"
                body = gzip.compress(body, GZIP_LEVEL)
        return _response(http, status, body, headers, shows_body=event.method != b"HEAD")

    def _answer(self, method: bytes, path: bytes) -> tuple[int, bytes]:
        if method not in {b"GET", b"HEAD"}:
            return 405, b"method not allowed\n"
        match path:
            case b"/livez":
                return 200, b"OK\n"
            case b"/readyz":
                obstacle = self._obstacle()
                return (503, f"{obstacle}\n".encode()) if obstacle else (200, b"OK\n")
            case b"/metrics":
                return 200, self._metrics()
            case _:
                return 404, b"not found\n"


def _accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request accepts gzip (RFC 9110, 12.5.3), as Prometheus does; a weight of 0 forbids it."""
    for name, value in headers:
        if name == b"accept-encoding":
            for coding in value.decode("latin-1").lower().split(","):
                parts = [part.strip() for part in coding.split(";")]
                if parts[0] == "gzip":
                    return not any(re.fullmatch(r"q=0(\.0*)?", part) for part in parts[1:])
    return False


def _response(
    http: h11.Connection,
    status: int,
    body: bytes,
    more_headers: Mapping[str, str] = MappingProxyType({}),
    *,
    shows_body: bool = True,
) -> bytes:
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *more_headers.items(),
    ]
    head = http.send(h11.Response(status_code=status, reason=HTTPStatus(status).phrase, headers=headers)) or b""
    shown = http.send(h11.Data(data=body)) if shows_body else b""
    return head + (shown or b"") + (http.send(h11.EndOfMessage()) or b"")


def _listeners(port: int) -> list[socket.socket]:
    everywhere = ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"))  # noqa: S104 - the kubelet connects to the pod's address
    listeners: list[socket.socket] = []
    try:
        for family, host in everywhere:
            listeners += _listener(family, host, port)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        raise OSError(errno.EADDRNOTAVAIL, "the host has neither IPv6 nor IPv4")
    return listeners


def _listener(family: socket.AddressFamily, host: str, port: int) -> list[socket.socket]:
    """Return a listening socket, or an empty list if the host has no addresses of this family."""
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return []
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:  # IPv6 is compiled in but switched off
            return []
        raise
    listener.setblocking(False)
    return [listener]

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The transport of nats-py with corrections; the table in `client` has each of them."""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from typing import TYPE_CHECKING, Final

from nats.aio.transport import TcpTransport

from shared.nats.reader import BUFFER_BYTES, Reader, ReaderProtocol

if TYPE_CHECKING:
    import ssl
    from urllib.parse import ParseResult

    from shared.nats.reader import Parse
    from shared.service.server_addresses import ServerAddresses

CLOSE_TIMEOUT_SECONDS: Final = 2


class Transport(TcpTransport):
    """A transport that keeps what is written to a closed socket, and closes within a time limit."""

    def __init__(self, addresses: ServerAddresses, parse: Parse) -> None:
        """Connect to one of these addresses; give to `parse` what the server sends after the handshake."""
        super().__init__()
        self.addresses = addresses
        self.address = ""
        self.greeting: bytes | None = None
        self._parse = parse
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._read_ahead = 0
        self._unwritten: list[bytes] = []

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002 - nats-py's signature
        """Connect to the first address of the server's name that accepts a connection."""
        self._read_ahead = buffer_size
        async with asyncio.timeout(connect_timeout):
            sock, self.address = await self.addresses.connect()
        protocol = self._protocol()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
        self._use(transport, protocol)
        self._bare_io_reader, self._bare_io_writer = self._io_reader, self._io_writer

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002 - nats-py's signature
        connect_timeout: int,
    ) -> None:
        """Encrypt the connection."""
        assert self._io_writer, "connected"
        protocol = self._protocol()
        name = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            transport = await asyncio.get_running_loop().start_tls(
                self._io_writer.transport, protocol, ssl_context, server_hostname=name
            )
        assert transport, "encrypted"
        protocol.reader.set_transport(transport)
        self._use(transport, protocol)

    def _protocol(self) -> ReaderProtocol:
        return ReaderProtocol(Reader(self._buffer, self._parse, self._read_ahead))

    def _use(self, transport: asyncio.Transport, protocol: ReaderProtocol) -> None:
        self._io_reader = protocol.reader
        self._io_writer = asyncio.StreamWriter(
            transport, protocol.of_streams, protocol.reader, asyncio.get_running_loop()
        )

    async def has_greeted(self, seconds: float) -> bool:
        """Return whether the server sends a line, or closes the connection, within a time."""
        try:
            async with asyncio.timeout(seconds):
                self.greeting = await super().readline()
        except TimeoutError:
            return False
        return True

    async def readline(self) -> bytes:
        """Return the next line; first the one that `has_greeted` read."""
        greeting, self.greeting = self.greeting, None
        return await super().readline() if greeting is None else greeting

    def writelines(self, payload: list[bytes]) -> None:
        """Write; if the socket is closed, which nats-py has not noticed yet, keep the bytes for `take_unwritten`."""
        if self._io_writer and not self._io_writer.transport.is_closing():
            super().writelines(payload)
        else:
            self._unwritten += payload

    def take_unwritten(self) -> list[bytes]:
        """Return what was written after the socket was closed, once."""
        unwritten, self._unwritten = self._unwritten, []
        return unwritten

    @property
    def unsent_bytes(self) -> int:
        """How many bytes the socket has not taken yet."""
        return self._io_writer.transport.get_write_buffer_size() if self._io_writer else 0

    @property
    def unread_bytes(self) -> int:
        """How many bytes wait in the socket."""
        if not self._bare_io_writer or self._bare_io_writer.transport.is_closing():
            return 0
        count = array.array("i", [0])
        fcntl.ioctl(self._bare_io_writer.get_extra_info("socket"), termios.FIONREAD, count)
        return count[0]

    async def wait_closed(self) -> None:
        """Wait until it is closed; after CLOSE_TIMEOUT_SECONDS close it without sending the rest."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await TcpTransport.wait_closed(self)
        except TimeoutError:
            self.abort()

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the server.

        Raises:
            OSError: the socket is closed.
        """
        peer = self._io_writer and self._io_writer.get_extra_info("peername")
        if not peer:
            raise OSError("the socket is closed")
        return peer[0], peer[1]

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The context of an encrypted connection; to create one takes 20 ms."""
        return self._io_writer.get_extra_info("sslcontext") if self._io_writer else None

    def abort(self) -> None:
        """Close the socket without sending the rest."""
        if self._io_writer:
            self._io_writer.transport.abort()

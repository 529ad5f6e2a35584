# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The limit of sending: the same mails over the same number of open SMTP connections, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

from tests.bench import mails, row

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from tests.bench.row import Sample

CREDENTIALS = ("bench", "bench-password")
ENVELOPE = (b"MAIL FROM:<noreply@lfx.linuxfoundation.org>\r\n", b"RCPT TO:<reader@example.com>\r\n", b"DATA\r\n")


class Target(NamedTuple):
    """The SMTP server; with a context the mails go over STARTTLS and AUTH."""

    port: int
    tls: ssl.SSLContext | None = None
    pipelining: bool = False


class Kept(asyncio.Protocol):
    """One connection, which waits for the reply to each line, or to the three before a mail."""

    def __init__(self) -> None:
        self._received = b""
        self._replies = 1
        self._awaited: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport: first the plain one, then the encrypted one."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's has no base class

    def data_received(self, data: bytes) -> None:
        """Complete the replies at their last lines, those without a hyphen."""
        self._received += data
        last = [line for line in self._received.splitlines(keepends=True) if line[3:4] == b" "]
        if len(last) == self._replies and last[-1][-1:] == b"\n":
            reply, self._received = self._received, b""
            self._awaited.set_result(reply)

    async def command(self, line: bytes, *, replies: int = 1) -> bytes:
        """Send a line, several lines or a whole mail, and return the reply, or the replies."""
        assert self.transport
        self._replies = replies
        self._awaited = asyncio.get_running_loop().create_future()
        self.transport.write(line)
        return await self._awaited

    async def greet(self, target: Target) -> None:
        """Send EHLO; with TLS also STARTTLS, a second EHLO and AUTH."""
        await self._awaited
        await self.command(b"EHLO bench\r\n")
        if target.tls:
            await self.command(b"STARTTLS\r\n")
            loop = asyncio.get_running_loop()
            assert self.transport
            self.transport = await loop.start_tls(self.transport, self, target.tls, server_hostname="localhost")
            await self.command(b"EHLO bench\r\n")
            await self.command(b"AUTH PLAIN " + base64.b64encode("\0".join(["", *CREDENTIALS]).encode()) + b"\r\n")

    async def send(self, message: bytes, *, pipelining: bool) -> None:
        """Send one mail."""
        if pipelining:
            await self.command(b"".join(ENVELOPE), replies=len(ENVELOPE))
        else:
            for line in ENVELOPE:
                await self.command(line)
        reply = await self.command(message)
        if reply[:1] != b"2":
            raise RuntimeError(f"the sink replied {reply!r}")


async def measure(target: Target, connections: int, count: int) -> Sample:
    """Send a number of mails over a number of connections."""
    async with _connected(target, connections) as kept:
        latencies: list[float] = []
        mails_left = iter(range(count))
        started = time.perf_counter()
        await asyncio.gather(*(_send_all(one, target, mails_left, latencies) for one in kept))
        return row.of_rate(latencies, time.perf_counter() - started)


async def mails_received(target: Target) -> int:
    """Return the number of mails that the sink received."""
    async with _connected(Target(target.port), 1) as (asking,):
        return int((await asking.command(b"XCOUNT\r\n"))[4:])


async def _send_all(kept: Kept, target: Target, mails_left: Iterator[int], latencies: list[float]) -> None:
    for _ in mails_left:
        began = time.perf_counter()
        await kept.send(mails.RAW_MESSAGE, pipelining=target.pipelining)
        latencies.append(time.perf_counter() - began)


@asynccontextmanager
async def _connected(target: Target, connections: int) -> AsyncIterator[list[Kept]]:
    loop = asyncio.get_running_loop()
    kept = [(await loop.create_connection(Kept, "127.0.0.1", target.port))[1] for _ in range(connections)]
    try:
        await asyncio.gather(*(one.greet(target) for one in kept))
        yield kept
    finally:
        for one in kept:
            if one.transport:
                one.transport.close()

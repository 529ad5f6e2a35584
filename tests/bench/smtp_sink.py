# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""An SMTP server that accepts every mail and stores none, with so little work that it does not limit the measurement.

`python -m tests.bench.smtp_sink PORT DELAY_SECONDS PIPELINING [CERT_FILE KEY_FILE]`: PIPELINING is 1 if it is offered;
with a certificate it offers STARTTLS, and then AUTH. XCOUNT, its own command, returns the number of received mails.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Final, cast

import uvloop

END_OF_DATA: Final = b"\r\n.\r\n"
OK: Final = b"250 OK\r\n"
ANSWERS: Final = {
    b"MAIL": OK,
    b"RCPT": OK,
    b"RSET": OK,
    b"NOOP": OK,
    b"DATA": b"354 go on\r\n",
    b"AUTH": b"235 2.7.0 welcome\r\n",
    b"QUIT": b"221 bye\r\n",
    b"STAR": b"220 go on\r\n",
}


class Sink:
    """The state of all sessions."""

    def __init__(self, delay: float, tls: ssl.SSLContext | None, extensions: tuple[bytes, ...]) -> None:
        self.delay = delay
        self.extensions = extensions
        self.tls = tls
        self.mails = 0
        self.upgrading: set[asyncio.Task[None]] = set()


class Session(asyncio.Protocol):
    """One connection; the client waits for the reply to DATA and to the message."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._received = bytearray()
        self._in_data = False
        self._is_secure = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting, except after STARTTLS, which makes a new transport."""
        is_first = self._transport is None
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no base class
        if is_first:
            self._reply(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer complete commands."""
        self._received += data
        if self._in_data:
            if self._received.endswith(END_OF_DATA):
                self._in_data = False
                self._sink.mails += 1
                self._received.clear()
                self._reply(OK)
        elif self._received.endswith(b"\n"):
            lines = self._received.splitlines()
            self._received.clear()
            for line in lines:
                self._answer(bytes(line[:4]).upper())

    def _answer(self, verb: bytes) -> None:
        if verb == b"EHLO":
            self._reply(self._extensions())
        elif verb == b"XCOU":
            self._reply(b"250 %d\r\n" % self._sink.mails)
        else:
            self._in_data = verb == b"DATA"
            self._reply(ANSWERS.get(verb, b"502 what?\r\n"), verb)

    def _extensions(self) -> bytes:
        security: tuple[bytes, ...] = ()
        if self._sink.tls:
            security = (b"AUTH PLAIN LOGIN",) if self._is_secure else (b"STARTTLS",)
        *lines, last = [b"sink", *self._sink.extensions, *security]
        return b"".join([*(b"250-%s\r\n" % line for line in lines), b"250 %s\r\n" % last])

    def _reply(self, reply: bytes, verb: bytes = b"") -> None:
        if self._sink.delay:
            asyncio.get_running_loop().call_later(self._sink.delay, self._write, reply, verb)
        else:
            self._write(reply, verb)

    def _write(self, reply: bytes, verb: bytes) -> None:
        assert self._transport
        self._transport.write(reply)
        if verb == b"QUIT":
            self._transport.close()
        elif verb == b"STAR":
            upgrade = asyncio.get_running_loop().create_task(self._upgrade())
            self._sink.upgrading.add(upgrade)
            upgrade.add_done_callback(self._sink.upgrading.discard)

    async def _upgrade(self) -> None:
        assert self._transport
        assert self._sink.tls
        self._is_secure = True
        self._transport = await asyncio.get_running_loop().start_tls(
            self._transport, self, self._sink.tls, server_side=True
        )


async def main(port: int, delay: float, extensions: tuple[bytes, ...], certificate: list[str]) -> None:
    """Serve until killed."""
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    sink = Sink(delay, tls, extensions)
    server = await asyncio.get_running_loop().create_server(lambda: Session(sink), "127.0.0.1", port, backlog=1024)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    offered = (b"8BITMIME", b"PIPELINING") if sys.argv[3] == "1" else (b"8BITMIME",)
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2]), offered, sys.argv[4:]))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: nats-py's client, mended where it would hang, stop reading, or close for good. Only `connection` uses it.

Replaces its split of headers, too. Read in nats-py 2.16.0; `tests/shared/nats/` holds each of these changes.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import nats.errors
from nats.aio.client import DEFAULT_BUFFER_SIZE, PING_PROTO, Client
from nats.aio.transport import TcpTransport
from nats.protocol import parser

if TYPE_CHECKING:
    from urllib.parse import ParseResult

    from nats.aio.client import Srv
    from nats.aio.subscription import Subscription

CLOSE_TIMEOUT_SECONDS: Final = 2
WHITESPACE: Final = " \t\n\r\v\f"
CRLF: Final = b"\r\n"
CREDENTIALS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")


# Only blanks and tabs part the words of a line; nats-py takes what else is white for a gap in a subject, and gives up.
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class ReconnectingClient(Client):
    """Comes back after whatever ended its connection, until it is closed by its owner."""

    @staticmethod
    def _parse_server_uri(connect_url: str) -> ParseResult:
        """Decode user and password, as the clients of NATS in other languages do."""
        uri = Client._parse_server_uri(connect_url)  # noqa: SLF001 - a static method of the base class
        user_info, at, host = uri.netloc.rpartition("@")
        return uri._replace(netloc=unquote(user_info) + at + host)

    async def _connect_to_server(self, s: Srv) -> None:
        """Connect with nothing left of a connection whose handshake failed: nats-py forgets its socket and tasks."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task:
                task.cancel()
        if isinstance(self._transport, _Transport):
            self._transport.abort()
        s.last_attempt = time.monotonic()
        self._transport = _Transport()
        await self._transport.connect(s.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"])

    async def _process_connect_init(self) -> None:
        """Let no error of a handshake be one for which nats-py would never try again."""
        try:
            await super()._process_connect_init()
        except (OSError, nats.errors.Error, TimeoutError):
            raise
        except Exception as error:
            raise nats.errors.Error(f"nats: handshake failed: {error!r}") from error
        self._pending = [command for command in self._pending if command is not PING_PROTO]  # nobody awaits their PONGs

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        """Insist on TLS where the URL does; know each server of a cluster once, with the credentials of the URL."""
        assert self._current_server, "connected"
        if initial_connection and self._current_server.uri.scheme == "tls":
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.Error("nats: the URL asks for TLS, and the server offers none")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        user_info, at, _ = self._current_server.uri.netloc.rpartition("@")
        known: dict[tuple[str | None, int | None], Srv] = {}
        for server in self._server_pool:
            if server.discovered and "@" not in server.uri.netloc:
                server.uri = server.uri._replace(netloc=user_info + at + server.uri.netloc)
            known.setdefault((server.uri.hostname, server.uri.port), server)
        self._server_pool[:] = known.values()

    def _read_creds_user_jwt(self, creds: Any) -> bytearray:
        """Refuse a file without a JWT or seed, in which nats-py would search for ever."""
        content = Path(creds).read_bytes()
        if not all(title in content for title in CREDENTIALS):
            raise nats.errors.Error(f"nats: {creds} holds no user JWT and seed")
        return super()._read_creds_user_jwt(creds)  # type: ignore[no-any-return]

    async def forget(self, subscription: Subscription) -> None:
        """End a subscription on whatever server; nats-py tells the next one of what it could not drain."""
        self._remove_sub(subscription._id)  # noqa: SLF001 - nats-py has no other name for it
        if self.is_connected:  # with the next server already, maybe
            await self._send_unsubscribe(subscription._id)  # noqa: SLF001

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """Split a block of headers; nats-py looks at each character of each name, which takes twice as long.

        Bytes that are not UTF-8 become lone surrogates, so that no two values are the same that were not.
        """
        fields = (line.partition(":") for line in raw.decode("utf-8", "surrogateescape").split("\r\n"))
        return {name.strip(WHITESPACE): value.strip(WHITESPACE) for name, colon, value in fields if colon}

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        """Take what can be read of headers whose first line cannot, where nats-py would stop reading for good."""
        try:
            return await super()._process_headers(headers)
        except (IndexError, UnicodeDecodeError):
            return self._parse_header_lines(headers.partition(CRLF)[2]) or None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Pass over a message that cannot be read, such as one whose reply subject is not UTF-8."""
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001 - nats-py would stop reading for good
            await self._error_cb(nats.errors.Error(f"nats: a message to {subject!r} cannot be read: {error!r}"))

    async def _read_loop(self) -> None:
        """Reconnect where nats-py stops to read and keeps the connection, deaf and seemingly well."""
        await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and task and not task.cancelling():
            await self._process_op_err(nats.errors.Error("nats: what the server sent cannot be read"))

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: FBT001, FBT002 - nats-py's signature
        """Pass on a cancellation that nats-py swallows: whoever set a time limit would wait without one."""
        task = asyncio.current_task()
        requests = task.cancelling() if task else 0
        flushed = await super()._flush_pending(force_flush)
        if task and task.cancelling() > requests:
            raise asyncio.CancelledError
        return flushed

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """Ping behind what waits to be sent: nats-py's ping overtakes it, so that a flush would prove nothing."""
        self._pongs.append(asyncio.get_running_loop().create_future() if future is None else future)
        self._pending.append(PING_PROTO)  # not _send_command: where the peer is silent it would wait without end
        self._pending_data_size += len(PING_PROTO)
        await self._flush_pending()

    async def _process_pong(self) -> None:
        """Pass over a flush that was given up: nats-py would fail to settle it, and stop reading for good."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect after an error that the server names (expired or revoked credentials, too many connections).

        nats-py closes the connection for good then, and the process would live on without one.
        """
        if parser.PERMISSIONS_ERR in err_msg:
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)


class _Transport(TcpTransport):
    """Neither writes to a closed socket, nor waits for ever for a silent peer to take what is left in its buffer."""

    def __init__(self) -> None:
        super().__init__()

    def writelines(self, payload: list[bytes]) -> None:
        """Write nothing to a closed socket, for which asyncio of Python 3.12 and 3.13 raises a TypeError."""
        if self._io_writer and not self._io_writer.transport.is_closing():
            super().writelines(payload)

    async def wait_closed(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await TcpTransport.wait_closed(self)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        if self._io_writer:
            self._io_writer.transport.abort()

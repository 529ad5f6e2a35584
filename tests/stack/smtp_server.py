# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A real SMTP server (aiosmtpd) in the running event loop, with STARTTLS or implicit TLS, AUTH, refused recipients."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiosmtpd import smtp

from tests.stack.ports import free_port
from tests.stack.received_mail import Mailbox, ReceivedMail

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

__all__ = ["ReceivedMail", "SmtpServer", "running"]


class SmtpServer:
    """The listening server, its accepted mails and refused recipients; it can be restarted on its port."""

    def __init__(
        self, security: Security, *, port: int | None = None, dot_delay: float = 0.0, pipelining: bool = False
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.dot_delay = dot_delay
        self.pipelining = pipelining
        self.pipelined = 0  # how often RCPT came together with the command before it
        self.connections = 0
        self.max_open_connections = 0
        self.security = security
        self.refused: dict[str, str] = {}
        self.mailbox = Mailbox()
        self._sessions: set[_Protocol] = set()
        self._server: asyncio.Server | None = None

    @property
    def mails(self) -> list[ReceivedMail]:
        """All accepted mails."""
        return self.mailbox.mails

    @property
    def open_connections(self) -> int:
        """The number of connected clients."""
        return len(self._sessions)

    async def wait_for_mails(self, count: int, timeout: float = 30.0) -> list[ReceivedMail]:
        """Return all mails when there are `count`."""
        return await self.mailbox.wait_for_mails(count, timeout)

    def refuse(self, address: str, reply: str) -> None:
        """Reply to RCPT for this address with e.g. `550 5.1.1 no such user`."""
        self.refused[address.lower()] = reply

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        implicit = self.security.tls if self.security.implicit_tls else None
        self._server = await loop.create_server(lambda: _Protocol(self), self.host, self.port, ssl=implicit)

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is None:
            return
        self._server.close()
        await asyncio.gather(*[session.cut() for session in self._sessions])
        await self._server.wait_closed()
        self._server = None

    def opened(self, session: _Protocol) -> None:
        """Count a new client."""
        self._sessions.add(session)
        self.connections += 1
        self.max_open_connections = max(self.max_open_connections, self.open_connections)

    def closed(self, session: _Protocol) -> None:
        """Remove a client that has disconnected."""
        self._sessions.discard(session)


class Security:
    """TLS and the account, if any."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None,
        implicit_tls: bool,
        require_starttls: bool,
        account: smtp.LoginPassword | None,
    ) -> None:
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.require_starttls = require_starttls
        self.account = account

    def authenticate(
        self, _smtp: smtp.SMTP, _session: smtp.Session, _envelope: smtp.Envelope, _mechanism: str, given: object
    ) -> smtp.AuthResult:
        """Compare with the account (aiosmtpd's authenticator)."""
        right = (
            self.account is not None
            and isinstance(given, smtp.LoginPassword)
            and all(map(hmac.compare_digest, given, self.account))
        )
        return smtp.AuthResult(success=right, handled=False, auth_data=given)


class _Session(smtp.Session):
    """Aiosmtpd's session without the warning that its own code causes at each AUTH."""

    @property
    def login_data(self) -> bytes | None:
        return self._login_data

    @login_data.setter
    def login_data(self, value: bytes | None) -> None:
        self._login_data = value  # type: ignore[assignment]  # aiosmtpd declares None


class _Hooks:
    """The hooks that aiosmtpd calls."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _smtp: smtp.SMTP, session: smtp.Session, _envelope: smtp.Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer AUTH only with an account, and PIPELINING, which aiosmtpd can do and does not offer, on request."""
        session.host_name = hostname
        lines = [line for line in responses if self._server.security.account or not line.startswith("250-AUTH")]
        return [lines[0], "250-PIPELINING", *lines[1:]] if self._server.pipelining else lines

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _smtp: smtp.SMTP, _session: smtp.Session, envelope: smtp.Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := self._server.refused.get(address.lower()):
            return refusal
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, connection: _Protocol, session: _Session, envelope: smtp.Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if self._server.dot_delay:
            await asyncio.sleep(self._server.dot_delay)
        self._server.mailbox.add(
            ReceivedMail(
                mail_from=envelope.mail_from or "",
                recipients=tuple(envelope.rcpt_tos),
                content=envelope.original_content or b"",
                tls=connection.is_encrypted,
                authenticated_as=session.login_data.decode() if session.login_data else None,
                peer=connection.peer,
            )
        )
        return f"250 2.0.0 OK {len(self._server.mails)}"


class _Protocol(smtp.SMTP):
    """One connection."""

    def __init__(self, server: SmtpServer) -> None:
        security = server.security
        super().__init__(
            _Hooks(server),
            hostname="localhost",
            tls_context=None if security.implicit_tls else security.tls,
            require_starttls=security.require_starttls,
            auth_require_tls=security.tls is not None and not security.implicit_tls,
            authenticator=security.authenticate,
            loop=asyncio.get_running_loop(),
        )
        self._stack = server
        self.peer = ("", 0)

    @property
    def is_encrypted(self) -> bool:
        """Whether the current transport is TLS."""
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._original_transport is None:  # STARTTLS makes a second transport
            self.peer = transport.get_extra_info("peername")[:2]
            self._stack.opened(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._stack.closed(self)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._stack.pipelined += b"\nRCPT TO:" in data
        super().data_received(data)

    async def check_auth_needed(self, caller_method: str) -> bool:
        # aiosmtpd's own auth_required would warn at each connection without STARTTLS.
        self._auth_required = self._stack.security.account is not None
        return await super().check_auth_needed(caller_method)

    async def cut(self) -> None:
        """Abort the connection."""
        transport = self._original_transport or self.transport
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
        if self._handler_coroutine:
            self._handler_coroutine.cancel()
            await asyncio.wait([self._handler_coroutine])

    def _create_session(self) -> smtp.Session:
        return _Session(self.loop)

    async def _handle_client(self) -> None:
        with suppress(ConnectionError):  # a client may disconnect at any point
            await super()._handle_client()


@asynccontextmanager
async def running(  # noqa: PLR0913 - the choices of one server
    *,
    tls: ssl.SSLContext | None = None,
    username: str | None = None,
    password: str | None = None,
    require_starttls: bool = False,
    implicit_tls: bool = False,
    port: int | None = None,
    dot_delay: float = 0.0,
    pipelining: bool = False,
) -> AsyncIterator[SmtpServer]:
    """Run a server during the block; with a username MAIL needs AUTH, with `tls` AUTH needs TLS."""
    account = None if username is None else smtp.LoginPassword(username.encode(), (password or "").encode())
    security = Security(tls=tls, implicit_tls=implicit_tls, require_starttls=require_starttls, account=account)
    server = SmtpServer(security, port=port, dot_delay=dot_delay, pipelining=pipelining)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()

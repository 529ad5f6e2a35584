# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SMTP connections: connect, STARTTLS, AUTH, transactions, QUIT. Replies and lost connections become DeliveryErrors."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

import aiosmtplib

from relay import host_names
from relay.errors import AccountRefused, ConnectionStale, Deferred, DeliveryError, Throttled, Uncertain
from relay.settings import IMPLICIT_TLS_PORTS, is_loopback
from relay.smtp import refusals, session_start
from relay.smtp.dialogue import SERVICE_CLOSING, Dialogue, DialogueLost
from relay.smtp.pipelining import Pipelining
from shared import redaction
from shared.service.server_addresses import ServerAddresses
from shared.service.time_limits import TimeLimits

if TYPE_CHECKING:
    from asyncio import Transport

    from relay.envelope import Envelope
    from relay.settings import RelaySettings
    from relay.smtp.dialogue import Reply

HANDSHAKE_SECONDS: Final = 10.0
STALLED_SECONDS: Final = 1.0  # then the next connection goes to another address of the server
QUIT_SECONDS: Final = 1.0
EMPTY_MESSAGE_SECONDS: Final = 1.0
POSITIVE: Final = 2
INTERMEDIATE: Final = 3
NO_LOGIN: Final = (POSITIVE, INTERMEDIATE, refusals.PERMANENT)  # replies to AUTH that another try would not change
RESET: Final = b"RSET\r\n"
DATA: Final = b"DATA\r\n"
EMPTY_MESSAGE: Final = b".\r\n"

_TIMED_OUT = re.compile(r"\b4\.4\.2\b")  # RFC 3463, 3.5: bad connection; SES closes an idle one with it


class SmtpConnection(Dialogue):
    """A dialogue that sends emails. An error of the connection closes it; after a refusal it is still usable."""

    def __init__(self, transport: Transport, timeout_seconds: float, pipelining: Pipelining | None) -> None:
        """Take over a transport on which EHLO, TLS and AUTH are done; a transaction takes at most `timeout_seconds`.

        `pipelining` is None if the server does not offer it.
        """
        super().__init__(transport)
        self._timeout_seconds = timeout_seconds
        self._pipelining = pipelining
        self._limits = TimeLimits()
        self._is_clean = True
        self.transactions = 0
        self.refusals = 0  # in a row, without those that ask for a lower rate
        self.is_proven = False  # the server has answered a transaction

    async def send(self, envelope: Envelope, message: bytes) -> None:
        """Send one message, whose lines all end with CRLF.

        Raises:
            ConnectionStale: the connection had been kept and was closing; nothing was sent.
            Deferred: not accepted; may be tried again.
            Rejected: refused permanently.
            AccountRefused: the account cannot send now.
            Uncertain: no reply came after the final dot.
        """
        self.transactions += 1
        ends_at = time.monotonic() + self._timeout_seconds
        commands = self._commands(envelope)
        lines = [*commands, _stuffed(message)]
        try:
            if self._pipelining and self._pipelining.is_used(time.monotonic()):
                await self._pipeline(commands, self._pipelining)  # with a limit of its own: an earlier refusal counts
                del lines[:-1]
            with self._limits.until(ends_at):
                await self.exchange_in_turn(lines)
            self._is_clean = self.is_proven = True
            self.refusals = 0
        except (DialogueLost, TimeoutError) as error:
            self.abort()
            text = redaction.text(str(error)) or f"no reply within {self._timeout_seconds:g} s"
            if self.writes == len(lines):
                raise Uncertain(f"no reply after the final dot: {text}") from error
            raise self._broken(text) from error
        except asyncio.CancelledError as error:
            self.abort()
            if self.writes == len(lines):  # the process stops, and the log has to name the outcome of this email
                raise Uncertain("interrupted after the final dot") from error
            raise

    def _commands(self, envelope: Envelope) -> list[bytes]:
        """Return the commands before the message."""
        commands = [
            b"MAIL FROM:<%s>\r\n" % envelope.sender.encode("ascii"),
            b"RCPT TO:<%s>\r\n" % envelope.recipient.encode("ascii"),
            DATA,
        ]
        if not self._is_clean:
            commands.insert(0, RESET)
        self._is_clean = False
        return commands

    async def _pipeline(self, commands: list[bytes], pipelining: Pipelining) -> None:
        """Send the commands in one write. All replies are read, and the first error counts."""
        is_on_trial = pipelining.is_on_trial
        failure = await self._exchange_within(pipelining.patience(self._timeout_seconds), commands)
        error = next(filter(None, map(self.error_of, commands, self.replies)), None)
        has_timed_out = isinstance(failure, TimeoutError)
        is_confused = pipelining.is_confused(error)
        if failure or is_confused or isinstance(error, DialogueLost):
            self.abort()
            is_certain = is_confused or (has_timed_out and bool(self.replies))
            pipelining.fail(time.monotonic(), redaction.text(str(failure or error)), is_certain=is_certain)
            if isinstance(error, DeliveryError) and not is_confused and not (is_on_trial and has_timed_out):
                raise error
            raise failure or DialogueLost(str(error))
        pipelining.succeed()
        if error:
            await self._decline(self.replies)
            raise error

    async def _exchange_within(self, seconds: float, commands: list[bytes]) -> DialogueLost | TimeoutError | None:
        """Wait `seconds` for the first reply; for each further one as long again, within the time of the transaction.

        A server on trial has little time to answer at all, and a slow one needs it for each of its replies.
        """
        ends_at = time.monotonic() + self._timeout_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                if seconds < self._timeout_seconds:
                    self.on_reply = lambda: limit.reschedule(min(time.monotonic() + seconds, ends_at))
                await self.exchange(b"".join(commands), len(commands))
        except TimeoutError:
            return TimeoutError(f"no reply within {seconds:g} s")
        except DialogueLost as error:
            return error
        finally:
            self.on_reply = None
        return None

    async def _decline(self, replies: list[Reply]) -> None:
        """Leave a refused transaction that waits for a message: with an empty one, as RFC 2920, 3.1 demands."""
        *_, recipient, data = replies
        if data.code // 100 != INTERMEDIATE and data.code != SERVICE_CLOSING:
            return
        is_refused = recipient.code // 100 in refusals.REFUSALS  # or it would get the empty message
        if data.code != SERVICE_CLOSING and self.is_usable and is_refused:
            with suppress(DialogueLost, TimeoutError):
                async with asyncio.timeout(EMPTY_MESSAGE_SECONDS):
                    reply = await self.command(EMPTY_MESSAGE)
                if reply.code // 100 in refusals.REFUSALS and reply.code != SERVICE_CLOSING:
                    return
        self.abort()

    def error_of(self, line: bytes, reply: Reply) -> DeliveryError | DialogueLost | None:
        """Return the error that a reply means, if any."""
        is_early = self.is_writing  # before the final dot
        if reply.code // 100 == (INTERMEDIATE if line is DATA else POSITIVE) and not is_early:
            return None
        text = redaction.text(reply.text)
        if reply.code // 100 not in refusals.REFUSALS:
            return DialogueLost(f"unexpected reply: {reply.code} {text}")
        if reply.code == SERVICE_CLOSING or line is RESET or (line[:4] == b"MAIL" and _TIMED_OUT.search(text)):
            self.abort()
            return self._broken(text, reply.code)
        if is_early:  # or the server could accept the message after all
            self.abort()
        self.is_proven = True
        error = refusals.error_of(reply.code, text)
        self.refusals += not isinstance(error, Throttled)
        return error

    def _broken(self, text: str, code: int = 0) -> DeliveryError:
        return ConnectionStale(text, code) if self.transactions > 1 else Deferred(text, code)

    async def quit(self) -> None:
        """Send QUIT and close; a server that does not reply or does not end TLS within a second is cut off."""
        try:
            with suppress(DialogueLost, TimeoutError):
                async with asyncio.timeout(QUIT_SECONDS):
                    await self.command(b"QUIT\r\n")
                    self.close()
                    await self.wait_closed()
        finally:
            self.abort()


class Connector:
    """Opens connections with the settings of the relay."""

    def __init__(self, settings: RelaySettings) -> None:
        """Keep the settings; connections are opened by `connect`."""
        self._settings = settings
        self._implicit_tls = settings.smtp_tls != "off" and settings.smtp_port in IMPLICIT_TLS_PORTS
        self._addresses = ServerAddresses(settings.smtp_host, settings.smtp_port)
        self.certificate_expiry: float | None = None  # seconds since 1970; of the server's last connection with TLS
        self._pipelining = Pipelining()
        self._auth_method = ""  # that the server has accepted

    async def connect(self) -> SmtpConnection:
        """Return a connection that is ready for mail.

        Raises:
            Deferred: the server is not reachable, not ready, or not secure.
            AccountRefused: the server refuses the credentials.
        """
        try:
            async with asyncio.timeout(min(HANDSHAKE_SECONDS, self._settings.smtp_timeout_seconds)):
                return await self._open(*await self._connected())
        except Exception as error:
            failure = _failure(error)
            if failure:
                raise type(failure)(self._without_password(failure.text), failure.code) from error
            raise

    async def _connected(self) -> tuple[socket.socket, str]:
        """Return a connected socket, and its address; an error names host and port."""
        host, port = self._settings.smtp_host, self._settings.smtp_port
        try:
            return await self._addresses.connect()
        except (socket.gaierror, UnicodeError) as error:
            raise OSError(f"{host} has no address: {error}") from error
        except OSError as error:
            raise ConnectionError(f"{host}, port {port}: {error}") from error

    async def _open(self, connected: socket.socket, address: str) -> SmtpConnection:
        """Make the socket ready for mail, or close it at once."""
        stall = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._addresses.suspect, address)
        try:
            client = await self._handshake(connected)
        except BaseException:
            self._addresses.suspect(address)
            _hang_up(connected)
            raise
        finally:
            stall.cancel()
        self._addresses.trust(address)
        offered = self._pipelining if client.supports_extension("pipelining") else None
        return SmtpConnection(cast("Transport", client.transport), self._settings.smtp_timeout_seconds, offered)

    async def _handshake(self, connected: socket.socket) -> aiosmtplib.SMTP:
        client = aiosmtplib.SMTP(
            hostname=self._settings.smtp_host,
            sock=connected,
            timeout=None,  # `connect` has one for all steps
            use_tls=self._implicit_tls,
            start_tls=False,
            tls_context=self._tls_context if self._implicit_tls else None,
            local_hostname=self._helo_name(connected),
        )
        await client.connect()
        await session_start.greet(client, self._settings)
        if not self._implicit_tls and self._settings.smtp_tls != "off":
            await self._secure(client)
        if certificate := client.get_transport_info("peercert"):
            self.certificate_expiry = ssl.cert_time_to_seconds(certificate["notAfter"])
        if self._settings.smtp_username:
            await self._log_in(client)
        return client

    async def _secure(self, client: aiosmtplib.SMTP) -> None:
        if client.supports_extension("starttls"):
            await client.starttls(tls_context=self._tls_context)
            await client.ehlo()
        elif self._settings.smtp_tls == "required" or (self._settings.smtp_username and not _is_local(client)):
            raise Deferred("the server does not offer STARTTLS, and the connection must be encrypted")

    async def _log_in(self, client: aiosmtplib.SMTP) -> None:
        offered = session_start.usable(client)
        if not offered:
            raise AccountRefused("the server offers no AUTH method that the relay supports")
        offered.sort(key=lambda method: method != self._auth_method)
        username, password = self._settings.smtp_username, self._settings.smtp_password
        self._auth_method = await session_start.log_in(client, offered, username, password)

    def _without_password(self, text: str) -> str:
        return session_start.without_password(text, self._settings.smtp_username, self._settings.smtp_password)

    def _helo_name(self, connected: socket.socket) -> str:
        return self._settings.smtp_helo_name or host_names.own_helo(socket.gethostname(), connected.getsockname()[0])

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # the system's certificates, or SSL_CERT_FILE


def _failure(error: BaseException) -> DeliveryError | None:
    match error:
        case aiosmtplib.SMTPAuthenticationError() if error.code // 100 in NO_LOGIN:
            return AccountRefused(f"AUTH: {redaction.text(error.message)}", error.code)
        case aiosmtplib.SMTPResponseException():
            return Deferred(redaction.text(error.message), max(error.code, 0))  # -1: not an SMTP reply
        case TimeoutError() if not error.errno:  # of asyncio; the kernel's has a number
            return Deferred("the server did not reply in time while the relay connected")
        case aiosmtplib.SMTPConnectError() if error.__cause__:  # its own text names no port
            return Deferred(redaction.text(str(error.__cause__)) or repr(error.__cause__))
        case aiosmtplib.SMTPException() | OSError() | ValueError():
            return Deferred(redaction.error(error))
        case _:
            return None


def _hang_up(connected: socket.socket) -> None:
    """End a connection on which the handshake failed, without waiting for the server.

    Closing the transport would wait for the server's close_notify for 30 s, and aiosmtplib has no reference to the
    transport any more after some errors. The transport closes when it reads the end of the stream.
    """
    with suppress(OSError):  # it is closed already
        connected.shutdown(socket.SHUT_RDWR)


def _stuffed(message: bytes) -> bytes:
    """Double the dots at line starts and add the final dot (RFC 5321, 4.5.2)."""
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return (b"." if stuffed[:1] == b"." else b"") + stuffed + b".\r\n"


def _is_local(client: aiosmtplib.SMTP) -> bool:
    peer = client.get_transport_info("peername")
    return bool(peer) and is_loopback(peer[0])

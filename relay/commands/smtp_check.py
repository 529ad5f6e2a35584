# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks the SMTP server step by step, then logs in as the relay does. Sends no mail."""

from __future__ import annotations

import socket
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import aiosmtplib

from relay import host_names
from relay.commands import smtp_addresses
from relay.commands.smtp_addresses import SERVER
from relay.errors import DeliveryError
from relay.settings import IMPLICIT_TLS_PORTS, is_loopback
from relay.smtp import session_start
from relay.smtp.connection import HANDSHAKE_SECONDS, Connector
from relay.smtp.session_start import AUTH_METHODS
from shared import error_texts, redaction
from shared.commands.check.checks import Check, Finding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from relay.settings import RelaySettings
    from shared.commands.check.checks import AddFinding

TLS, LOGIN = "SMTP TLS", "SMTP login"
EXPIRES_SOON_DAYS: Final = 14
LEAST_SIZE_BYTES: Final = 2 * 1024 * 1024  # a request of NATS's usual 1 MiB, as quoted-printable
EXPIRED, NOT_YET, WRONG_HOST = 10, 9, 62  # of OpenSSL: X509_V_ERR_CERT_HAS_EXPIRED, _NOT_YET_VALID, _HOSTNAME_MISMATCH
ADVICE_ON_CERTIFICATES: Final = {
    EXPIRED: "renew the server's certificate",
    NOT_YET: "compare the clocks of both machines",
    WRONG_HOST: "set SMTP_HOST to a name that is in the certificate",
}
WRONG_CREDENTIALS: Final = "check SMTP_USERNAME and SMTP_PASSWORD; in SES they are valid in one region only"
NO_LOGIN: Final = (
    "set SMTP_PORT to a port for submission (587 or 465), or leave SMTP_USERNAME empty if the server needs no login"
)
TRANSIENT: Final = 4  # RFC 5321, 4.2.1: the first digit
ADVICE_ON_CODES: Final = {  # RFC 4954, 4 and 6
    0: "the relay cannot send mail; see the lines above",
    500: NO_LOGIN,
    502: NO_LOGIN,
    503: NO_LOGIN,
    504: "the server does not support the AUTH method that it offers: repair its configuration",
    530: "AUTH needs an encrypted connection: set SMTP_TLS to auto, or SMTP_PORT to a port with TLS",
    534: "the server wants another password, such as an application password, or another AUTH method",
    538: "AUTH needs an encrypted connection: set SMTP_TLS to auto, or SMTP_PORT to a port with TLS",
}


def check(settings: RelaySettings) -> Check:
    """Return the check of the SMTP server. It ends with the first step that fails."""

    async def run(add: AddFinding) -> None:
        if not settings.email_enabled:
            add(Finding("skipped", SERVER, "EMAIL_ENABLED is false: requests are answered, and no mail is sent"))
            return
        connected = await smtp_addresses.connect(settings.smtp_host, settings.smtp_port, add)
        if connected and await _reached(settings, connected, add):
            add(await _logged_in(settings))

    return Check(SERVER, 3 * HANDSHAKE_SECONDS, run)


async def _reached(settings: RelaySettings, connected: socket.socket, add: AddFinding) -> bool:
    """Add the findings about the server; return whether a login can be tried."""
    implicit = settings.smtp_tls != "off" and settings.smtp_port in IMPLICIT_TLS_PORTS
    client = aiosmtplib.SMTP(
        hostname=settings.smtp_host,
        sock=connected,
        timeout=HANDSHAKE_SECONDS,
        use_tls=implicit,
        start_tls=False,
        tls_context=ssl.create_default_context() if implicit else None,
        local_hostname=settings.smtp_helo_name or host_names.own_helo(socket.gethostname(), connected.getsockname()[0]),
    )
    findings: list[Finding] = []
    try:
        async for finding in _conversation(client, settings, implicit=implicit):
            add(finding)
            findings.append(finding)
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        add(_unreached(error, settings))
        return False
    finally:
        client.close()
        connected.close()
    return all(finding.about != LOGIN for finding in findings)


async def _conversation(client: aiosmtplib.SMTP, settings: RelaySettings, *, implicit: bool) -> AsyncIterator[Finding]:
    """Yield the findings about the greeting, TLS, and AUTH if the server offers none that can be used."""
    yield await _greeted(client, settings)
    before_tls = list(client.server_auth_methods)
    encrypted = await _encrypted(client, settings, implicit=implicit)
    yield encrypted
    if settings.smtp_username and encrypted.status != "failed" and (unoffered := _unoffered(client, before_tls)):
        yield unoffered


async def _greeted(client: aiosmtplib.SMTP, settings: RelaySettings) -> Finding:
    started = time.perf_counter()
    greeting = await client.connect()
    taken = time.perf_counter() - started
    await session_start.greet(client, settings)
    limit = client.esmtp_extensions.get("size", "")
    text = redaction.text(greeting.message.splitlines()[0]) if greeting.message else "an empty greeting"
    found = f"port {settings.smtp_port} answers in {taken * 1000:.0f} ms: {text}"
    found += f"; accepts up to {int(limit):,} bytes" if limit.isdigit() and int(limit) else ""
    if limit.isdigit() and 0 < int(limit) < LEAST_SIZE_BYTES:
        return Finding("warning", SERVER, found, "the server will refuse large emails: raise its limit")
    return Finding("ok", SERVER, found)


async def _encrypted(client: aiosmtplib.SMTP, settings: RelaySettings, *, implicit: bool) -> Finding:
    if not implicit and settings.smtp_tls != "off" and client.supports_extension("starttls"):
        await client.starttls(tls_context=ssl.create_default_context())
        await client.ehlo()
    tls = client.get_transport_info("ssl_object")
    return _certificate(tls) if tls else _unencrypted(settings)


def _certificate(tls: Any) -> Finding:
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(tls.getpeercert()["notAfter"]), UTC)
    days = (until - datetime.now(UTC)).days
    found = f"{tls.version()}, certificate valid until {until:%Y-%m-%d}, for {days} days"
    if days < EXPIRES_SOON_DAYS:
        return Finding("warning", TLS, found, "renew the server's certificate soon")
    return Finding("ok", TLS, found)


def _unencrypted(settings: RelaySettings) -> Finding:
    why = "SMTP_TLS is off" if settings.smtp_tls == "off" else "the server does not offer STARTTLS"
    is_local = is_loopback(settings.smtp_host)
    if settings.smtp_tls == "required" or (settings.smtp_username and not is_local):
        return Finding("failed", TLS, f"{why}, but the connection must be encrypted", "check SMTP_PORT; SES uses 587")
    if is_local:
        return Finding("ok", TLS, f"{why}; the server is on this machine")
    return Finding("warning", TLS, f"{why}: mail is sent unencrypted", "set SMTP_PORT to a port with TLS")


def _unoffered(client: aiosmtplib.SMTP, before_tls: Sequence[str]) -> Finding | None:
    """Return the finding about a server that offers no AUTH method with which the relay can log in."""
    offered = client.server_auth_methods
    if not set(AUTH_METHODS).isdisjoint(offered):
        return None
    if offered:
        found = f"the server offers only AUTH {_listed(offered)}, and the relay supports {_listed(AUTH_METHODS)}"
        return Finding("failed", LOGIN, found, "switch one of these on at the server, or set SMTP_PORT to another port")
    if client.get_transport_info("ssl_object") is None and client.supports_extension("starttls"):
        found = "the server offers no AUTH before STARTTLS, and SMTP_TLS is off"
        return Finding("failed", LOGIN, found, "set SMTP_TLS to auto")
    if before_tls and client.get_transport_info("ssl_object"):
        found = f"the server offers AUTH {_listed(before_tls)} before STARTTLS, and none after it"
        return Finding("failed", LOGIN, found, "switch AUTH on for encrypted connections at the server")
    where = "with" if client.get_transport_info("ssl_object") else "without"
    return Finding("failed", LOGIN, f"the server offers no AUTH, {where} TLS", NO_LOGIN)


def _listed(methods: Sequence[str]) -> str:
    return ", ".join(methods).upper()


def _unreached(error: Exception, settings: RelaySettings) -> Finding:
    refused = _cause(error, ssl.SSLCertVerificationError)
    if isinstance(refused, ssl.SSLCertVerificationError):
        advice = ADVICE_ON_CERTIFICATES.get(refused.verify_code, "set SSL_CERT_FILE to its CA certificate")
        return Finding("failed", TLS, f"the certificate is not accepted: {refused.verify_message}", advice)
    if isinstance(_cause(error, ssl.SSLError), ssl.SSLError):
        advice = "check SMTP_PORT: TLS starts at once on 465 and 2465, and with STARTTLS on other ports"
        return Finding("failed", TLS, redaction.in_words(error), advice)
    found = redaction.in_words(error)
    advice = f"check SMTP_HOST and SMTP_PORT ({settings.smtp_port}), and the firewall"
    return Finding("failed", SERVER, found, advice)


def _cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


async def _logged_in(settings: RelaySettings) -> Finding:
    try:
        connection = await Connector(settings).connect()
    except DeliveryError as error:
        return Finding("failed", LOGIN, error_texts.reworded(str(error)), _advice(error.code))
    await connection.quit()
    if settings.smtp_username:
        return Finding("ok", LOGIN, "the server accepts the credentials")
    if is_loopback(settings.smtp_host):
        return Finding("ok", LOGIN, "the server accepts mail without credentials")
    return Finding("warning", LOGIN, "no credentials are set", "SES needs SMTP_USERNAME and SMTP_PASSWORD")


def _advice(code: int) -> str:
    """Return what to do about the reply code to a login."""
    if code // 100 == TRANSIENT:
        return "a temporary refusal, which does not mean that the credentials are wrong: try again later"
    return ADVICE_ON_CODES.get(code, WRONG_CREDENTIALS)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks the SMTP server step by step, then logs in as the relay does. Sends no mail."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import aiosmtplib

from relay.errors import AccountRefused, DeliveryError
from relay.settings import IMPLICIT_TLS_PORTS, is_loopback
from relay.smtp.connection import HANDSHAKE_SECONDS, Connector
from shared import redaction
from shared.commands.check.checks import Check, Finding

if TYPE_CHECKING:
    from relay.settings import RelaySettings
    from shared.commands.check.checks import AddFinding

HOST_NAME, SERVER, TLS, LOGIN = "SMTP name", "SMTP server", "SMTP TLS", "SMTP login"
EXPIRES_SOON_DAYS: Final = 14
LEAST_SIZE_BYTES: Final = 2 * 1024 * 1024  # a request of NATS's usual 1 MiB, as quoted-printable
EXPIRED, NOT_YET, WRONG_HOST = 10, 9, 62  # of OpenSSL: X509_V_ERR_CERT_HAS_EXPIRED, _NOT_YET_VALID, _HOSTNAME_MISMATCH
ADVICE_ON_CERTIFICATES: Final = {
    EXPIRED: "renew the server's certificate",
    NOT_YET: "compare the clocks of both machines",
    WRONG_HOST: "set SMTP_HOST to a name that is in the certificate",
}


def check(settings: RelaySettings) -> Check:
    """Return the check of the SMTP server. It ends with the first step that fails."""

    async def run(add: AddFinding) -> None:
        if not settings.email_enabled:
            add(Finding("skipped", SERVER, "EMAIL_ENABLED is false: requests are answered, and no mail is sent"))
            return
        if await _resolved(settings, add) and await _reached(settings, add):
            add(await _logged_in(settings))

    return Check(SERVER, 3 * HANDSHAKE_SECONDS, run)


async def _resolved(settings: RelaySettings, add: AddFinding) -> bool:
    host = settings.smtp_host
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, settings.smtp_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        add(Finding("failed", HOST_NAME, f"{host} has no address: {error}", "check SMTP_HOST, and this machine's DNS"))
        return False
    addresses = sorted({str(one[4][0]) for one in found})
    add(Finding("ok", HOST_NAME, f"{host} resolves to {', '.join(addresses)}"))
    return True


async def _reached(settings: RelaySettings, add: AddFinding) -> bool:
    implicit = settings.smtp_tls != "off" and settings.smtp_port in IMPLICIT_TLS_PORTS
    client = aiosmtplib.SMTP(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        timeout=HANDSHAKE_SECONDS,
        use_tls=implicit,
        start_tls=False,
        tls_context=ssl.create_default_context() if implicit else None,
        local_hostname="localhost",
    )
    try:
        add(await _greeted(client, settings))
        add(await _encrypted(client, settings, implicit=implicit))
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        add(_unreached(error, settings))
        return False
    else:
        return True
    finally:
        client.close()


async def _greeted(client: aiosmtplib.SMTP, settings: RelaySettings) -> Finding:
    started = time.perf_counter()
    greeting = await client.connect()
    taken = time.perf_counter() - started
    await client.ehlo()
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


def _unreached(error: Exception, settings: RelaySettings) -> Finding:
    refused = _cause(error, ssl.SSLCertVerificationError)
    if isinstance(refused, ssl.SSLCertVerificationError):
        advice = ADVICE_ON_CERTIFICATES.get(refused.verify_code, "set SSL_CERT_FILE to its CA certificate")
        return Finding("failed", TLS, f"the certificate is not accepted: {refused.verify_message}", advice)
    if isinstance(_cause(error, ssl.SSLError), ssl.SSLError):
        advice = "check SMTP_PORT: TLS starts at once on 465 and 2465, and with STARTTLS on other ports"
        return Finding("failed", TLS, redaction.text(str(error)), advice)
    found = redaction.text(str(error)) or repr(error)
    advice = f"check SMTP_HOST and SMTP_PORT ({settings.smtp_port}), and the firewall"
    return Finding("failed", SERVER, found, advice)


def _cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


async def _logged_in(settings: RelaySettings) -> Finding:
    try:
        connection = await Connector(settings).connect()
    except AccountRefused as error:
        advice = "check SMTP_USERNAME and SMTP_PASSWORD; in SES they are valid in one region only"
        return Finding("failed", LOGIN, str(error), advice)
    except DeliveryError as error:
        return Finding("failed", LOGIN, str(error), "the relay cannot send mail; see the lines above")
    await connection.quit()
    if settings.smtp_username:
        return Finding("ok", LOGIN, "the server accepts the credentials")
    if is_loopback(settings.smtp_host):
        return Finding("ok", LOGIN, "the server accepts mail without credentials")
    return Finding("warning", LOGIN, "no credentials are set", "SES needs SMTP_USERNAME and SMTP_PASSWORD")

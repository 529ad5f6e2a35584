# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: tries the SMTP server step by step, then logs in exactly as the relay does. Sends nothing."""

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
from shared.commands.check.checkup import Finding, Probe

if TYPE_CHECKING:
    from relay.settings import RelaySettings
    from shared.commands.check.checkup import Tell

NAME, SERVER, TLS, LOGIN = "SMTP name", "SMTP server", "SMTP TLS", "SMTP login"
EXPIRES_SOON_DAYS: Final = 14
LEAST_SIZE_BYTES: Final = 2 * 1024 * 1024  # a request of NATS's usual 1 MiB, as quoted-printable
EXPIRED, NOT_YET, WRONG_HOST = 10, 9, 62  # of OpenSSL: X509_V_ERR_CERT_HAS_EXPIRED, _NOT_YET_VALID, _HOSTNAME_MISMATCH
ADVICE_ON_CERTIFICATES: Final = {
    EXPIRED: "the server needs a new certificate",
    NOT_YET: "compare the clocks of both machines",
    WRONG_HOST: "set SMTP_HOST to a name that is in the certificate",
}


def probe(settings: RelaySettings) -> Probe:
    """Return the probe; each step is told, up to the one that fails."""

    async def try_out(tell: Tell) -> None:
        if not settings.email_enabled:
            tell(Finding("skipped", SERVER, "EMAIL_ENABLED is false: requests are answered, and nothing is sent"))
            return
        if not await _resolved(settings, tell):
            return
        reached = await _reached(settings, tell)
        if reached:  # else the reason is told already
            tell(await _logged_in(settings))

    return Probe(SERVER, 3 * HANDSHAKE_SECONDS, try_out)


async def _resolved(settings: RelaySettings, tell: Tell) -> bool:
    host = settings.smtp_host
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, settings.smtp_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        tell(Finding("failed", NAME, f"{host} has no address: {error}", "check SMTP_HOST, and the DNS of this machine"))
        return False
    addresses = sorted({str(one[4][0]) for one in found})
    tell(Finding("ok", NAME, f"{host} is {', '.join(addresses)}"))
    return True


async def _reached(settings: RelaySettings, tell: Tell) -> bool:
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
        tell(await _greeted(client, settings))
        tell(await _secured(client, settings, implicit=implicit))
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        tell(_unreached(error, settings))
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
    said = redaction.text(greeting.message.splitlines()[0]) if greeting.message else "nothing"
    found = f"port {settings.smtp_port} answers in {taken * 1000:.0f} ms: {said}"
    found += f"; takes {int(limit):,} bytes" if limit.isdigit() and int(limit) else ""
    if limit.isdigit() and 0 < int(limit) < LEAST_SIZE_BYTES:
        return Finding("warning", SERVER, found, "a large email will be refused: raise the server's limit")
    return Finding("ok", SERVER, found)


async def _secured(client: aiosmtplib.SMTP, settings: RelaySettings, *, implicit: bool) -> Finding:
    if not implicit and settings.smtp_tls != "off" and client.supports_extension("starttls"):
        await client.starttls(tls_context=ssl.create_default_context())
        await client.ehlo()
    secured = client.get_transport_info("ssl_object")
    if not secured:
        return _in_the_clear(settings)
    return _encrypted(secured)


def _encrypted(secured: Any) -> Finding:
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(secured.getpeercert()["notAfter"]), UTC)
    days = (until - datetime.now(UTC)).days
    found = f"{secured.version()}, certificate valid until {until:%Y-%m-%d}, for {days} days"
    if days < EXPIRES_SOON_DAYS:
        return Finding("warning", TLS, found, "the server needs a new certificate soon")
    return Finding("ok", TLS, found)


def _in_the_clear(settings: RelaySettings) -> Finding:
    why = "SMTP_TLS is off" if settings.smtp_tls == "off" else "the server does not offer STARTTLS"
    here = is_loopback(settings.smtp_host)
    if settings.smtp_tls == "required" or (settings.smtp_username and not here):
        return Finding("failed", TLS, f"{why}, and the connection has to be encrypted", "check SMTP_PORT; SES: 587")
    if here:
        return Finding("ok", TLS, f"{why}; the server is on this machine")
    return Finding("warning", TLS, f"{why}: mails travel in the clear", "use a port of the server that has TLS")


def _unreached(error: Exception, settings: RelaySettings) -> Finding:
    refused = _cause(error, ssl.SSLCertVerificationError)
    if isinstance(refused, ssl.SSLCertVerificationError):
        advice = ADVICE_ON_CERTIFICATES.get(refused.verify_code, "name a file with its authority in SSL_CERT_FILE")
        return Finding("failed", TLS, f"the certificate is not accepted: {refused.verify_message}", advice)
    if isinstance(_cause(error, ssl.SSLError), ssl.SSLError):
        advice = "TLS begins at once on 465 and 2465, with STARTTLS elsewhere: check SMTP_PORT"
        return Finding("failed", TLS, redaction.text(str(error)), advice)
    found = redaction.text(str(error)) or repr(error)
    advice = f"check SMTP_HOST and SMTP_PORT ({settings.smtp_port}), and that a firewall lets this through"
    return Finding("failed", SERVER, found, advice)


def _cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


async def _logged_in(settings: RelaySettings) -> Finding:
    try:
        connected = await Connector(settings).connect()
    except AccountRefused as error:
        return Finding(
            "failed", LOGIN, str(error), "check SMTP_USERNAME and SMTP_PASSWORD; SES: they are of one region"
        )
    except DeliveryError as error:
        return Finding("failed", LOGIN, str(error), "the relay cannot send like this; see the lines above")
    await connected.quit()
    if settings.smtp_username:
        return Finding("ok", LOGIN, "the server takes the credentials")
    if is_loopback(settings.smtp_host):
        return Finding("ok", LOGIN, "ready for mail, without credentials")
    return Finding("warning", LOGIN, "no credentials are set", "SES wants SMTP_USERNAME and SMTP_PASSWORD")

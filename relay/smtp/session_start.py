# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: the first commands of a session, EHLO and AUTH, with servers that do not understand or accept the first try."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final

import aiosmtplib

if TYPE_CHECKING:
    from relay.settings import RelaySettings

AUTH_METHODS: Final = ("plain", "login", "cram-md5")
UNKNOWN_COMMAND: Final = frozenset({500, 502, 503, 504})  # RFC 5321, 3.2; 503 as of some old servers
NEEDS_TLS: Final = frozenset({530, 538})  # RFC 4954, 6
INTERMEDIATE: Final = 3
PERMANENT: Final = 5
CANCEL: Final = b"*"
LEAST_HIDDEN: Final = 4  # characters; a shorter password would be found inside words

_WRONG_CREDENTIALS = re.compile(r"credential|password|user ?name", re.IGNORECASE)


async def greet(client: aiosmtplib.SMTP, settings: RelaySettings) -> None:
    """Send EHLO; to a server that does not know it, send HELO, unless the settings need STARTTLS or AUTH.

    Raises:
        SMTPHeloError: the server refuses it.
    """
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError as error:
        needs_ehlo = settings.smtp_username or settings.smtp_tls == "required"
        if needs_ehlo or error.code not in UNKNOWN_COMMAND:
            raise
        await client.helo()


def usable(client: aiosmtplib.SMTP) -> list[str]:
    """Return the AUTH methods that both sides know, the preferred one first."""
    return [method for method in AUTH_METHODS if method in client.supported_auth_methods]


async def log_in(client: aiosmtplib.SMTP, methods: list[str], username: str, password: str) -> str:
    """Log in with the first method that the server accepts, and return it: some servers offer one that they refuse.

    A server that finds the credentials wrong is not asked again: it counts failed logins.

    Raises:
        SMTPAuthenticationError: the server refuses the login.
    """
    *others, last = methods
    for method in others:
        try:
            await _log_in_by(client, method, username, password)
        except aiosmtplib.SMTPAuthenticationError as error:
            if error.code // 100 != PERMANENT or error.code in NEEDS_TLS or _WRONG_CREDENTIALS.search(error.message):
                raise
        else:
            return method
    await _log_in_by(client, last, username, password)
    return last


async def _log_in_by(client: aiosmtplib.SMTP, method: str, username: str, password: str) -> None:
    """Log in with a method; a server that asks for more than the method has is told to cancel it (RFC 4954, 4).

    Raises:
        SMTPAuthenticationError: the server refuses the login, or has cancelled it.
    """
    log_in_by = {"plain": client.auth_plain, "login": client.auth_login, "cram-md5": client.auth_crammd5}
    try:
        await log_in_by[method](username, password)
    except aiosmtplib.SMTPAuthenticationError as error:
        if error.code // 100 != INTERMEDIATE:
            raise
        answer = await client.execute_command(CANCEL)
        text = f"the server asks for more than {method.upper()} has: {error.code} {error.message}".rstrip()
        raise aiosmtplib.SMTPAuthenticationError(answer.code, f"{text}; then {answer.message}") from error


def without_password(text: str, username: str, password: str) -> str:
    """Hide the password in a reply: a server that does not understand AUTH may quote what it got, also in capitals."""
    sent = (password, *(b64encode(one.encode()).decode() for one in (f"\0{username}\0{password}", password)))
    hidden = "|".join(re.escape(one) for one in sent if len(one) >= LEAST_HIDDEN)
    return re.sub(hidden, "***", text, flags=re.IGNORECASE) if password else text

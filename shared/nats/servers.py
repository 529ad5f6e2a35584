# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The servers of NATS_URL: their URLs, and why none of them accepts a connection."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from shared import error_texts, redaction
from shared.errors import LoginRefused, ServiceUnreachable
from shared.service.settings import SettingsError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from shared.service.settings import NatsSettings

SCHEMES: Final = ("nats://", "tls://")
NOT_A_URL: Final = (
    "one of its URLs (not shown) has no valid host and port; separate URLs with commas, and write special characters "
    "of a user or password in percent, such as %23 for # and %2F for /"
)
_SCHEME: Final = re.compile(r"^[A-Za-z]+://")  # in any case: RFC 3986, 3.1
FINAL: Final = (ConnectionRefusedError, FileNotFoundError, PermissionError, socket.gaierror, ssl.SSLError)


def urls(nats_url: str) -> list[str]:
    """Return the URLs of a list.

    Raises:
        SettingsError: it is not a list of URLs.
    """
    found = [_SCHEME.sub(lambda scheme: scheme[0].lower(), url.strip()) for url in nats_url.split(",") if url.strip()]
    if not found or any("://" in url and not url.startswith(SCHEMES) for url in found):
        raise SettingsError("NATS_URL: its value (not shown) is not a list of nats:// or tls:// URLs")
    if not all(map(_has_host_and_port, found)):
        raise SettingsError(f"NATS_URL: {NOT_A_URL}")
    return found


def _has_host_and_port(url: str) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"{SCHEMES[0]}{url}")
        has_scheme = "://" in url or not parts.path.strip("/")  # `nats:/host` would be the server `nats`
        return has_scheme and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class Refusals:
    """Counts the refused attempts to connect, and ends the wait when each server has refused one."""

    def __init__(self, servers: Sequence[str], limit: asyncio.Timeout) -> None:
        """End `limit` after as many refusals as there are servers, unless it is without end."""
        self._left = len(servers)
        self._limit = limit

    def add(self, error: Exception) -> None:
        """Count an error of an attempt if it is a refusal."""
        if self._limit.when() is None or not _is_refusal(error):
            return
        self._left -= 1
        if self._left <= 0:
            self._limit.reschedule(time.monotonic())


def _is_refusal(error: Exception) -> bool:
    """Return whether an attempt was refused; the next one would be, too."""
    of_each_address = isinstance(error, OSError) and f"[Errno {errno.ECONNREFUSED}]" in str(error)
    return isinstance(error, FINAL) or of_each_address or error_texts.in_words(error) == error_texts.REFUSED_LOGIN


def unreachable(why: Exception | None, settings: NatsSettings) -> ServiceUnreachable:
    """Return the error for the user of a command, whose last attempt to connect failed for this reason."""
    detail = redaction.in_words(why) if why else "no answer"
    kind = LoginRefused if detail == error_texts.REFUSED_LOGIN else ServiceUnreachable
    credentials = settings.nats_creds
    if credentials and not os.access(credentials, os.R_OK) and credentials not in detail:
        detail += f"; the file of NATS_CREDS cannot be read: {credentials}"
    return kind(f"cannot connect to NATS at {redaction.urls(settings.nats_url)}: {detail}")

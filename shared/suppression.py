# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: under which key an address stands in the suppression list, the same for whoever writes or reads it."""

from __future__ import annotations

import hashlib
from email.utils import parseaddr


def normalised(address: str) -> str:
    """Return an address as it is compared: without a name, in lower case, its domain as on the wire (IDNA).

    Raises:
        ValueError: it is no address.
    """
    local_part, at, domain = parseaddr(address)[1].rpartition("@")
    if not (local_part and at and domain):
        raise ValueError(f"{address!r} is no address")
    if not domain.isascii():
        import idna  # noqa: PLC0415 - its tables take 2 MB, and few domains need them

        domain = idna.encode(domain, uts46=True).decode()
    return f"{local_part}@{domain}".lower()


def key_of(address: str) -> str:
    """Return the KV key of a normalised address, which shows nobody the address: its SHA-256 in hexadecimal."""
    return hashlib.sha256(address.encode()).hexdigest()

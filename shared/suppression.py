# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: under which key an address stands in the suppression list, the same for whoever writes or reads it."""

from __future__ import annotations

import hashlib

from shared import addresses


def normalised(address: str) -> str:
    """Return an address as it is compared: as the relay puts it on the wire, in lower case, without a name.

    Raises:
        ValueError: it is no mailbox that the relay would send to.
    """
    return addresses.parse(address.strip()).address.lower()


def key_of(address: str) -> str:
    """Return the KV key of a normalised address, which shows nobody the address: its SHA-256 in hexadecimal."""
    return hashlib.sha256(address.encode()).hexdigest()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: how an address looks in a log."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|[^\s<>\"'(),:;@\[\]]+)@([^\s<>\"'(),;@]+)")


def address(mailbox: str) -> str:
    """Keep the first letter of the local part and the domain: `a***@example.com`."""
    local, at, domain = mailbox.rpartition("@")
    if not at:
        return "***"
    first = local.rpartition("<")[2].strip().lstrip('"')[:1]
    return f"{first}***@{domain.rstrip('> ')}"


def text(quoting: str) -> str:
    """Redact every address inside a text, such as a server's reply that quotes the recipient."""
    return _ADDRESS.sub(lambda match: address(match[0]), quoting)

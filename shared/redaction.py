# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: redacts addresses, and passwords in URLs, for logs and output."""

from __future__ import annotations

import re

_ATOM = r"[^\s<>\"(),:;@\[\]]"
# A local part is tried only at its first character, so that the time does not grow with the square of the length.
_ADDRESS = re.compile(rf"""((?<!\\)"(?:[^"\\]|\\.)*"|(?<!{_ATOM}){_ATOM}+)@[^\s<>"'(),;@]+""")
_USER_INFO = re.compile(r"(?<=://)[^\s/]*(?=@)")
_DOMAIN_END = re.compile(r"""[\s<>"'(),;]""")
_MAX_DOMAIN = 255  # octets (RFC 5321, 4.5.3.1.2); a longer one is cut, so that it makes no long line


def address(mailbox: str) -> str:
    """Return an address with only its first letter and its domain: `a***@example.com`."""
    local, at, domain = mailbox.rpartition("@")
    if not at:
        return "***"
    first = local.rpartition("<")[2].strip().lstrip("\"'")[:1]
    return f"{first}***@{_DOMAIN_END.split(domain[:_MAX_DOMAIN], maxsplit=1)[0]}"


def text(quoting: str) -> str:
    """Redact every address inside a text, such as a server's reply that quotes the recipient."""
    return _ADDRESS.sub(lambda match: address(match[0]), quoting)


def identifier(given: str) -> str:
    """Redact addresses in an id that a caller chose, and in its key: `invite-ada@example.com`, `=ada=40a.org`."""
    return text(given.replace("=40", "@")) if "@" in given or "=40" in given else given


def urls(text: str) -> str:
    """Redact user, password or token in each URL: `nats://***@host:4222`."""
    return _USER_INFO.sub("***", text)

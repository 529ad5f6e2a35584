# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: how an address looks in a log, and a URL that may hold a password."""

from __future__ import annotations

import re

_ATOM = r"[^\s<>\"(),:;@\[\]]"
# Either kind of local part is tried only where none has been tried before: the time for a long text is not its square.
_ADDRESS = re.compile(rf"""((?<!\\)"(?:[^"\\]|\\.)*"|(?<!{_ATOM}){_ATOM}+)@[^\s<>"'(),;@]+""")
_USER_INFO = re.compile(r"(?<=://)[^\s/]*(?=@)")
_DOMAIN_END = re.compile(r"""[\s<>"'(),;]""")
_MAX_DOMAIN = 255  # octets (RFC 5321, 4.5.3.1.2); what is longer is none, and would make a line as long


def address(mailbox: str) -> str:
    """Keep the first letter of the local part and the domain: `a***@example.com`."""
    local, at, domain = mailbox.rpartition("@")
    if not at:
        return "***"
    first = local.rpartition("<")[2].strip().lstrip("\"'")[:1]
    return f"{first}***@{_DOMAIN_END.split(domain[:_MAX_DOMAIN], maxsplit=1)[0]}"


def text(quoting: str) -> str:
    """Redact every address inside a text, such as a server's reply that quotes the recipient."""
    return _ADDRESS.sub(lambda match: address(match[0]), quoting)


def identifier(given: str) -> str:
    """Redact addresses in an id that a caller has chosen, also in its key: `invite-ada@example.com`, `=ada=40a.org`."""
    return text(given.replace("=40", "@")) if "@" in given or "=40" in given else given


def urls(text: str) -> str:
    """Hide user, password or token of each URL: `nats://***@host:4222`."""
    return _USER_INFO.sub("***", text)

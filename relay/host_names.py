# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the name or address of the mail server, and the name of the relay in EHLO (RFC 5321, 4.1.1.1 and 4.1.3)."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from shared import addresses

MAX_NAME_BYTES: Final = 253

_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_STRICT = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")  # RFC 5321, 4.1.2: no underscore


class Malformed(ValueError):
    """The text is not one host name or address."""


def server(text: str) -> str:
    """Return the server's name in A-labels, or its address, as look-ups and certificates need it.

    Brackets around an address and a dot at the end mean nothing else, so they are removed.

    Raises:
        Malformed: the text has a port, a scheme, a path or a user, is a list, or is not a name.
    """
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if _address(bare):
        return bare
    return _name(text)


def helo(text: str) -> str:
    """Return what EHLO sends for a name or address that was set: a name, or an address literal.

    Raises:
        Malformed: the text is neither.
    """
    bare = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    if _address(bare.lower().removeprefix("ipv6:")):
        return literal(bare.lower().removeprefix("ipv6:"))
    name = _name(text)
    if not _STRICT.fullmatch(name):
        raise Malformed(text)
    return name


def own_helo(host_name: str, own_address: str) -> str:
    """Return the host name if it is fully qualified, else the address literal: many servers refuse a bare name."""
    try:
        name = helo(host_name)
    except Malformed:
        return literal(own_address)
    return name if "." in name and name[0] != "[" else literal(own_address)


def literal(address: str) -> str:
    """Return an address as EHLO needs it: `[192.0.2.1]` or `[IPv6:2001:db8::1]`.

    Raises:
        ValueError: the text is not an address.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    plain = getattr(parsed, "ipv4_mapped", None) or parsed
    return f"[IPv6:{plain}]" if isinstance(plain, ipaddress.IPv6Address) else f"[{plain}]"


def _name(text: str) -> str:
    try:
        name = addresses.wire_domain(text.removesuffix("."))
    except addresses.Malformed as error:
        raise Malformed(text) from error
    if len(name) > MAX_NAME_BYTES or _NUMERIC.fullmatch(name.rpartition(".")[2]):  # a number is a wrong address
        raise Malformed(text)
    return name


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

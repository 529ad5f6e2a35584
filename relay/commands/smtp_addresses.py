# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: checks the name and the addresses of the SMTP server, and connects to the first address that answers."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from shared import redaction
from shared.commands.check.checks import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.commands.check.checks import AddFinding

    Address = tuple[int, int, int, str, tuple[Any, ...]]
    """An answer of getaddrinfo."""

HOST_NAME, SERVER = "SMTP name", "SMTP server"
CONNECT_SECONDS: Final = 3.0


async def connect(host: str, port: int, add: AddFinding) -> socket.socket | None:
    """Connect to a host and add findings about its name and its addresses; return None if no address answers."""
    try:
        found = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        found_out = f"{host} has no address: {redaction.in_words(error)}"
        add(Finding("failed", HOST_NAME, found_out, "check SMTP_HOST, and this machine's DNS"))
        return None
    results = await asyncio.gather(*map(_connected, found))
    sockets = [one for one in results if isinstance(one, socket.socket)]
    for unused in sockets[1:]:
        unused.close()
    errors = {str(address[4][0]): one for address, one in zip(found, results, strict=True) if isinstance(one, OSError)}
    add(_described(host, found, [address for address, error in errors.items() if isinstance(error, TimeoutError)]))
    if not sockets:
        reasons = "; ".join(f"{address} port {port}: {_reason(error)}" for address, error in errors.items())
        add(Finding("failed", SERVER, reasons, f"check SMTP_HOST and SMTP_PORT ({port}), and the firewall"))
    return sockets[0] if sockets else None


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Look up the addresses of a host.

    Raises:
        OSError: it has none.
        UnicodeError: it is not a host name.
    """
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _described(host: str, found: Sequence[Address], silent: Sequence[str]) -> Finding:
    """Describe the addresses. One that refuses connections costs no time; one that does not answer delays each mail."""
    addresses = sorted({str(address[4][0]) for address in found})
    text = f"{host} resolves to {', '.join(addresses)}"
    if not silent:
        return Finding("ok", HOST_NAME, text)
    text += f"; no answer within {CONNECT_SECONDS:g} s from {', '.join(silent)}"
    return Finding("warning", HOST_NAME, text, "remove an address that does not answer from DNS, or repair its route")


async def _connected(address: Address) -> socket.socket | OSError:
    family, kind, protocol, _, to = address
    try:
        connecting = socket.socket(family, kind, protocol)
    except OSError as error:  # such as IPv6 on a machine without it
        return error
    connecting.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(connecting, to)
    except BaseException as error:
        connecting.close()
        if isinstance(error, OSError):
            return error
        raise
    return connecting


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    return os.strerror(error.errno) if error.errno else str(error)

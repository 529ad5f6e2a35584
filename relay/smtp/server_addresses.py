# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: TCP connections to the addresses of the server's name, in a race (RFC 8305).

An address that failed lately is tried after the others. uvloop's own race does not exist, and a server that accepts
and never sends a greeting cannot be recognized by a race of connections alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING, Final

import aiohappyeyeballs

from shared.service import threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohappyeyeballs import AddrInfoType

NEXT_ADDRESS_SECONDS: Final = 0.25  # RFC 8305, 5: the Connection Attempt Delay
CONNECT_SECONDS: Final = 2.0  # for each address: one SYN more, which is repeated after 1 s
SUSPECT_SECONDS: Final = 60.0


class ServerAddresses:
    """Connects to a host and port, and remembers which addresses failed."""

    def __init__(self, host: str, port: int) -> None:
        """Look up nothing yet: each connection looks up the name again."""
        self._host = host
        self._port = port
        self._suspected: dict[str, float] = {}

    async def connect(self) -> tuple[socket.socket, str]:
        """Return a connected socket, and the address that it is connected to.

        Raises:
            OSError: the name has no address, or no address accepts a connection in time.
        """
        found = self._in_order(await self._look_up())
        tried: dict[socket.socket, str] = {}
        limit = CONNECT_SECONDS + (len(found) - 1) * NEXT_ADDRESS_SECONDS
        try:
            async with asyncio.timeout(limit):
                connected = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, socket_factory=partial(_create, tried)
                )
        except (OSError, RuntimeError, asyncio.CancelledError) as error:
            self._suspect_all(tried.values())
            if isinstance(error, asyncio.CancelledError):
                raise
            reason = str(error) or f"no connection within {limit:g} s"
            raise ConnectionError(f"{self._host}, port {self._port}: {reason}") from error
        address = tried.pop(connected)
        self._suspect_all(other for other in tried.values() if other != address)
        return connected, address

    def suspect(self, address: str) -> None:
        """Try the other addresses first for a while."""
        self._suspected[address] = asyncio.get_running_loop().time()

    def trust(self, address: str) -> None:
        """End the suspicion: the address works."""
        self._suspected.pop(address, None)

    def _suspect_all(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            self.suspect(address)

    def _in_order(self, found: list[AddrInfoType]) -> list[AddrInfoType]:
        """Put suspected addresses last, beginning with the one that failed first; the rest keep their order."""
        oldest = asyncio.get_running_loop().time() - SUSPECT_SECONDS
        self._suspected = {address: since for address, since in self._suspected.items() if since > oldest}
        return sorted(found, key=lambda info: self._suspected.get(info[4][0], 0.0))

    async def _look_up(self) -> list[AddrInfoType]:
        look_up = partial(_look_up, self._host, self._port)
        try:
            if _is_address(self._host):
                return look_up()
            return await threads.run(look_up)  # the process does not wait for it when it ends
        except (OSError, UnicodeError) as error:
            raise OSError(f"{self._host} has no address: {error}") from error


def _look_up(host: str, port: int) -> list[AddrInfoType]:
    return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _create(created: dict[socket.socket, str], info: AddrInfoType) -> socket.socket:
    """Create a socket for an address, and note it in `created`."""
    one = socket.socket(*info[:3])
    created[one] = info[4][0]
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

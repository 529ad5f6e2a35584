# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: TCP connections to the addresses of the server's name, in a race (RFC 8305).

An address that failed lately is tried after the others: one that accepts connections and never sends a greeting
would win each race. asyncio's own race cannot be used, since uvloop has none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
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
    """The addresses of a server's name. Remembers which of them failed."""

    def __init__(self, host: str, port: int) -> None:
        """Look up nothing yet: each connection looks up the name again."""
        self._host = host
        self._port = port
        self._suspected: dict[str, float] = {}

    async def connect(self) -> tuple[socket.socket, str]:
        """Return a connected socket, and the address that it is connected to.

        Raises:
            OSError: the name has no address, or no address accepts a connection in time.
            UnicodeError: the name cannot be looked up.
        """
        found = self._in_order(await self._look_up())
        tried: dict[socket.socket, str] = {}

        def create(info: AddrInfoType) -> socket.socket:
            created = socket.socket(*info[:3])
            tried[created] = info[4][0]
            created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return created

        limit = CONNECT_SECONDS + (len(found) - 1) * NEXT_ADDRESS_SECONDS
        try:
            async with asyncio.timeout(limit):
                connected = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, socket_factory=create
                )
        except BaseException as error:
            self._suspect_all(tried.values())
            if isinstance(error, TimeoutError) and not error.errno:  # of asyncio; the kernel's has a number
                raise ConnectionError(f"no connection within {limit:g} s") from error
            raise
        address = tried.pop(connected)
        self._suspect_all(other for other in tried.values() if other != address)
        return connected, address

    def suspect(self, address: str) -> None:
        """Try the other addresses first for a while."""
        self._suspected[address] = time.monotonic()

    def trust(self, address: str) -> None:
        """End the suspicion: the address works."""
        self._suspected.pop(address, None)

    def _suspect_all(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            self.suspect(address)

    def _in_order(self, found: list[AddrInfoType]) -> list[AddrInfoType]:
        """Put suspected addresses last, beginning with the one that failed first; the rest keep their order."""
        oldest = time.monotonic() - SUSPECT_SECONDS
        self._suspected = {address: since for address, since in self._suspected.items() if since > oldest}
        return sorted(found, key=lambda info: self._suspected.get(info[4][0], 0.0))

    async def _look_up(self) -> list[AddrInfoType]:
        def look_up() -> list[AddrInfoType]:
            return [*socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)]

        if _is_address(self._host):
            return look_up()
        return await threads.run(look_up)  # the process does not wait for it when it ends


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

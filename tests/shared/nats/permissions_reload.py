# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A nats-server whose user loses and regains permissions by a reload of the configuration."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.shared.connections import as_user
from tests.stack import nats_server as servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.stack.nats_server import NatsServer


class Permissions:
    """The permissions of one user of a server; the other user, `admin`, has all."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server

    @property
    def url(self) -> str:
        """The URL of the restricted user."""
        return as_user(self.server.url, "u:p")

    @property
    def admin_url(self) -> str:
        """The URL of the other user."""
        return as_user(self.server.url, "admin:a")

    async def deny(self, *, subscribe: Sequence[str] = (), publish: Sequence[str] = ()) -> None:
        """Deny these subjects, and allow all others; return when the server has loaded it."""
        await self.server.load(config(subscribe=subscribe, publish=publish))

    async def allow(self) -> None:
        """Allow all subjects."""
        await self.deny()


def config(*, subscribe: Sequence[str] = (), publish: Sequence[str] = ()) -> str:
    """Return the users, one of them without these subjects."""
    denied = ", ".join(
        f"{verb}: {{ deny: {_list(some)} }}" for verb, some in (("subscribe", subscribe), ("publish", publish))
    )
    restricted = f"{{ user: u, password: p, permissions: {{ {denied} }} }}"
    return f"authorization {{ users: [ {restricted}, {{ user: admin, password: a }} ] }}"


@asynccontextmanager
async def running(*, subscribe: Sequence[str] = (), publish: Sequence[str] = ()) -> AsyncIterator[Permissions]:
    """Run a server with this user."""
    async with servers.running(config(subscribe=subscribe, publish=publish)) as server:
        yield Permissions(server)


def _list(subjects: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{subject}"' for subject in ("none", *subjects)) + "]"

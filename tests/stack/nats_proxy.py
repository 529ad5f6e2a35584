# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A TCP proxy before a NATS server that knows the protocol: delays, freezes, cuts, loses, rewrites, answers itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.stack import nats_frames
from tests.stack.nats_frames import Answer, Publication
from tests.stack.nats_link import Link
from tests.stack.nats_rules import Rules
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Answer", "NatsProxy", "Publication", "js_error", "no_responders", "running"]


class NatsProxy:
    """Where it listens, and what it does to what passes."""

    def __init__(self, server_url: str, port: int | None = None) -> None:
        address = urlsplit(server_url)
        self.port = port or free_port()
        self.rules = Rules()
        self.delay = 0.0
        self.thawed = asyncio.Event()
        self.thawed.set()
        self._target = (str(address.hostname), address.port or 4222)
        self._links: dict[asyncio.Task[None], Link] = {}
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        """How many clients are connected."""
        return len(self._links)

    @property
    def published(self) -> list[str]:
        """The subjects clients have published to, answered or lost ones too."""
        return self.rules.published

    def drop_link(self) -> None:
        """Cut all connections; new ones are welcome."""
        for link in self._links.values():
            link.cut()

    def freeze(self) -> None:
        """Forward nothing, and close nothing."""
        self.thawed.clear()

    def thaw(self) -> None:
        """Forward again, first what has piled up."""
        self.thawed.set()

    def answer(self, subject_prefix: str, times: int, make_reply: Callable[[Publication], Answer]) -> None:
        """Answer the next requests under a subject, and let none of them reach the server."""
        self.rules.answer(subject_prefix, times, make_reply)

    def rewrite(self, subject_prefix: str, times: int, change: Callable[[Publication], Publication]) -> None:
        """Change the next publications under a subject on their way to the server."""
        self.rules.rewrite(subject_prefix, times, change)

    def lose_request(self, subject_prefix: str, times: int) -> None:
        """Let the next publications under a subject vanish."""
        self.rules.lose_request(subject_prefix, times)

    def lose_reply(self, subject_prefix: str, times: int) -> None:
        """Let the next requests under a subject be done by the server, and its replies vanish."""
        self.rules.lose_reply(subject_prefix, times)

    def forget_plans(self) -> None:
        """Do from now on what a server without a proxy does."""
        self.rules.forget()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Listen no longer and cut all connections."""
        if self._server is None:
            return
        self._server.close()
        self.drop_link()
        for task in self._links:
            task.cancel()
        if self._links:
            await asyncio.wait(self._links)
        await self._server.wait_closed()
        self._server = None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, reader, writer)
        task = asyncio.create_task(self._forward(link), name="nats_proxy.link")
        self._links[task] = link
        task.add_done_callback(self._links.pop)

    async def _forward(self, link: Link) -> None:
        with contextlib.suppress(OSError):  # the server may be down, either side may vanish
            await link.run(*self._target)


def js_error(code: int, err_code: int, description: str) -> Callable[[Publication], Answer]:
    """Answer as JetStream's API does when it refuses."""
    error = {"code": code, "err_code": err_code, "description": description}
    answer = Answer(json.dumps({"error": error}).encode())
    return lambda _: answer


def no_responders() -> Callable[[Publication], Answer]:
    """Answer as a server does where nobody serves the subject."""
    answer = Answer(headers=nats_frames.NO_RESPONDERS)
    return lambda _: answer


@asynccontextmanager
async def running(server_url: str, port: int | None = None) -> AsyncIterator[NatsProxy]:
    """Stand before the server until the end of the block."""
    proxy = NatsProxy(server_url, port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()

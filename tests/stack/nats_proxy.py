# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A TCP proxy for a NATS server: it can delay, freeze, cut, lose, repeat, change and answer messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from tests.stack import nats_frames
from tests.stack.nats_frames import Answer, Delivery, Publication
from tests.stack.nats_link import Link
from tests.stack.nats_rules import Rules
from tests.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.stack.nats_rules import Decides

__all__ = ["Answer", "Delivery", "NatsProxy", "Publication", "js_error", "no_responders", "running"]


class NatsProxy:
    """The listening proxy and its rules; another object can decide in their place."""

    def __init__(self, server_url: str, port: int | None = None) -> None:
        address = urlsplit(server_url)
        self.port = port or free_port()
        self.rules = Rules()
        self.decides: Decides = self.rules
        self.delay = 0.0
        self.delayed = 0  # messages that wait to be forwarded
        self.thawed = asyncio.Event()
        self.thawed.set()
        self._target = (str(address.hostname), address.port or 4222)
        self._links: dict[asyncio.Task[None], Link] = {}
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        """The number of connected clients."""
        return len(self._links)

    @property
    def published(self) -> list[str]:
        """The subjects of all publications of clients, also of answered and lost ones."""
        return self.rules.published

    def drop_link(self) -> None:
        """Cut all connections; new ones are accepted."""
        for link in self._links.values():
            link.cut()

    def freeze(self) -> None:
        """Forward nothing, and keep the connections open."""
        self.thawed.clear()

    def thaw(self) -> None:
        """Forward again, first the waiting messages."""
        self.thawed.set()

    def answer(self, subject_prefix: str, times: int, make_reply: Callable[[Publication], Answer]) -> None:
        """Answer the next requests under a subject; they do not reach the server."""
        self.rules.answer(subject_prefix, times, make_reply)

    def rewrite(self, subject_prefix: str, times: int, change: Callable[[Publication], Publication]) -> None:
        """Change the next publications under a subject before they reach the server."""
        self.rules.rewrite(subject_prefix, times, change)

    def lose_request(self, subject_prefix: str, times: int) -> None:
        """Drop the next publications under a subject."""
        self.rules.lose_request(subject_prefix, times)

    def lose_reply(self, subject_prefix: str, times: int) -> None:
        """Forward the next requests under a subject to the server, and drop its replies."""
        self.rules.lose_reply(subject_prefix, times)

    def delay_request(self, subject_prefix: str, times: int, seconds: float) -> None:
        """Delay the next publications under a subject; those that follow overtake them."""
        self.rules.delay_request(subject_prefix, times, seconds)

    def repeat_request(self, subject_prefix: str, times: int) -> None:
        """Send the next publications under a subject to the server twice."""
        self.rules.repeat_request(subject_prefix, times)

    def delay_reply(self, subject_prefix: str, times: int, seconds: float) -> None:
        """Delay the server's reply to the next requests under a subject."""
        self.rules.delay_reply(subject_prefix, times, seconds)

    def garble_reply(self, subject_prefix: str, times: int, payload: bytes = b"no JSON") -> None:
        """Replace the payload of the server's reply to the next requests under a subject."""
        self.rules.rewrite_reply(subject_prefix, times, lambda reply: msgspec.structs.replace(reply, payload=payload))

    def rewrite_reply(self, subject_prefix: str, times: int, change: Callable[[Delivery], Delivery]) -> None:
        """Change the server's reply to the next requests under a subject."""
        self.rules.rewrite_reply(subject_prefix, times, change)

    def forget_plans(self) -> None:
        """Remove all rules: forward everything unchanged."""
        self.rules.forget()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stop listening and cut all connections."""
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
        with contextlib.suppress(OSError):  # the server may be down, either side may disconnect
            await link.run(*self._target)


def js_error(code: int, err_code: int, description: str) -> Callable[[Publication], Answer]:
    """Return an error reply of JetStream's API."""
    error = {"code": code, "err_code": err_code, "description": description}
    answer = Answer(json.dumps({"error": error}).encode())
    return lambda _: answer


def no_responders() -> Callable[[Publication], Answer]:
    """Return the reply of a server to a request without responders."""
    answer = Answer(headers=nats_frames.NO_RESPONDERS)
    return lambda _: answer


@asynccontextmanager
async def running(server_url: str, port: int | None = None) -> AsyncIterator[NatsProxy]:
    """Run a proxy for the server during the block."""
    proxy = NatsProxy(server_url, port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One client's connection through the proxy: two directions of frames, and the subscriptions of the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from tests.stack import nats_frames
from tests.stack.nats_frames import Answer, Delivery, Frame, Parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_rules import Planned


class Link:
    """Forwards frames until one side closes."""

    def __init__(self, proxy: NatsProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._from_client = reader
        self._to_client = writer
        self._to_server: asyncio.StreamWriter | None = None
        self._subscriptions: dict[str, str] = {}

    async def run(self, host: str, port: int) -> None:
        """Connect to the server and forward."""
        try:
            from_server, self._to_server = await asyncio.open_connection(host, port)
            directions = [
                asyncio.create_task(self._pump(self._from_client, self._to_server, self._from_client_frame)),
                asyncio.create_task(self._pump(from_server, self._to_client, self._from_server_frame)),
            ]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.wait(directions)
        finally:
            self.cut()

    def cut(self) -> None:
        """Close both sides at once."""
        self._to_client.transport.abort()
        if self._to_server:
            self._to_server.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forward: Callable[[Frame], bytes]
    ) -> None:
        parser = Parser()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self._proxy.delay:
                    await asyncio.sleep(self._proxy.delay)
                await self._proxy.thawed.wait()
                writer.write(b"".join(forward(frame) for frame in parser.feed(data)))
                await writer.drain()

    def _from_client_frame(self, frame: Frame) -> bytes:
        if frame.verb == b"SUB":
            _, subject, *_, sid = frame.words
            self._subscriptions[sid.decode()] = subject.decode()
        elif frame.verb == b"UNSUB" and len(frame.words) == 2:  # with a limit it continues for some messages
            self._subscriptions.pop(frame.words[1].decode(), None)
        elif frame.verb in {b"PUB", b"HPUB"}:
            return self._published(frame)
        return frame.encode()

    def _from_server_frame(self, frame: Frame) -> bytes:
        if frame.verb == b"INFO":
            return _without_other_urls(frame).encode()
        if frame.verb in {b"MSG", b"HMSG"}:
            delivery = nats_frames.delivery(frame)
            return self._write(self._proxy.decides.deliver(delivery), "")
        return frame.encode()

    def _published(self, frame: Frame) -> bytes:
        publication = nats_frames.publication(frame)
        return self._write(self._proxy.decides.decide(publication), publication.reply)

    def _write(self, plan: Iterable[Planned], inbox: str) -> bytes:
        """Return what is forwarded now in this direction; write or schedule the rest. Answers go to `inbox`."""
        now = b""
        for message, after_seconds in plan:
            if isinstance(message, Answer):
                sid = next((sid for sid, subject in self._subscriptions.items() if covers(subject, inbox)), "")
                self._write_later(self._to_client, message.encode(inbox, sid), after_seconds)
            elif after_seconds:
                writer = self._to_client if isinstance(message, Delivery) else self._to_server
                assert writer, "there is no frame of either side without both connections"
                self._write_later(writer, message.encode(), after_seconds)
            else:
                now += message.encode()
        return now

    def _write_later(self, writer: asyncio.StreamWriter, data: bytes, seconds: float) -> None:
        """Write after some seconds unless the link is cut by then."""

        def write() -> None:
            if not writer.is_closing():
                writer.write(data)

        def write_late() -> None:
            self._proxy.delayed -= 1
            write()

        if seconds:
            self._proxy.delayed += 1
            asyncio.get_running_loop().call_later(seconds, write_late)
        else:
            write()


def covers(pattern: str, subject: str) -> bool:
    """Return whether the subject of a subscription, with its wildcards, matches this subject."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        return len(given) > len(wanted) and covers_tokens(wanted, given[: len(wanted)])
    return covers_tokens(wanted, given)


def covers_tokens(wanted: list[str], given: list[str]) -> bool:
    """Compare by token."""
    return len(wanted) == len(given) and all(token in {"*", other} for token, other in zip(wanted, given, strict=True))


def _without_other_urls(frame: Frame) -> Frame:
    """Return the INFO of the server without the addresses, which a client would use to bypass the proxy."""
    info = json.loads(frame.line.split(b" ", 1)[1])
    for name in ("connect_urls", "ws_connect_urls"):
        info.pop(name, None)
    return Frame(b"INFO " + json.dumps(info).encode())

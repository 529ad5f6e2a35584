# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""HTTP/1.1 as AWS clients speak it: POST with a length, kept connections, Expect: 100-continue. Independent of SQS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.stack.change import Change

_END_OF_HEAD = b"\r\n\r\n"


class Request(msgspec.Struct, frozen=True):
    """One request; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class Service(Protocol):
    """Returns the whole response to a request, or an awaitable of it; None closes the connection without a response."""

    def __call__(self, request: Request) -> bytes | Awaitable[bytes | None] | None:
        """Return the response."""


class HttpConnection(asyncio.Protocol):
    """One client connection; its requests are answered one after the other."""

    def __init__(self, service: Service, connections: set[HttpConnection], change: Change) -> None:
        self._service = service
        self._connections = connections
        self._change = change
        self._received = bytearray()
        self._continued = False
        self._waiting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add this one to the open connections."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """Cancel the open request: a client that left its long poll must get no message."""
        self._connections.discard(self)
        self._change.notify()
        self._transport = None
        if self._waiting:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        """Buffer the data, and answer complete requests."""
        self._received += data
        self._answer_complete()

    async def cut(self) -> None:
        """Abort the connection."""
        waiting = self._waiting
        if self._transport:
            self._transport.abort()
        if waiting:
            waiting.cancel()
            await asyncio.wait([waiting])

    def _answer_complete(self) -> None:
        while self._transport and not self._waiting and (request := self._next_request()):
            answer = self._service(request)
            if answer is None or isinstance(answer, bytes):
                self._write(answer)
            else:
                self._waiting = asyncio.create_task(self._answer_later(answer), name="http.answer")

    async def _answer_later(self, answer: Awaitable[bytes | None]) -> None:
        response = await answer
        self._waiting = None
        self._write(response)
        self._answer_complete()

    def _write(self, response: bytes | None) -> None:
        if self._transport is None:
            return
        if response is None:
            self._transport.abort()
        else:
            self._transport.write(response)

    def _next_request(self) -> Request | None:
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return None
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + len(_END_OF_HEAD)
        length = int(headers.get("content-length", "0"))
        if len(self._received) < start + length:
            self._allow(headers)
            return None
        body = bytes(self._received[start : start + length])
        del self._received[: start + length]
        self._continued = False
        return Request(path=first.split(" ")[1], headers=headers, body=body)

    def _allow(self, headers: dict[str, str]) -> None:
        """Permit a client with Expect: 100-continue to send its body."""
        if headers.get("expect", "").lower() == "100-continue" and not self._continued and self._transport:
            self._continued = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def response(status: int, body: bytes, content_type: str, *headers: tuple[str, str]) -> bytes:
    """Write a response; the connection stays open."""
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    head = f"HTTP/1.1 {status} -\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n"
    return head.encode() + body

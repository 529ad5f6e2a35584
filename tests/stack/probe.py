# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One HTTP GET to 127.0.0.1 over asyncio streams, so that the stack needs no HTTP client."""

from __future__ import annotations

import asyncio


async def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body; raise OSError if there is no response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        response = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = response.partition(b"\r\n\r\n")
    return _status(head), _body(head, body).decode()


def _status(head: bytes) -> int:
    try:
        return int(head.split(b" ", 2)[1])
    except (IndexError, ValueError) as error:
        message = f"not an HTTP response: {head[:80]!r}"
        raise ConnectionError(message) from error


def _body(head: bytes, body: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    plain = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        plain += rest[:length]
        body = rest[length + 2 :] if length else b""
    return plain

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The transport: both event loops read into its buffer, also what was encrypted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from shared.nats.transport import Transport
from tests.shared.connections import connected
from tests.stack import nats_server as servers
from tests.stack.certificates import Certificates
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


async def buffered(server_config: str, scheme: str) -> bytes:
    """Return what the buffer of a connection has after a message."""
    async with servers.running(server_config) as server, connected(server.url.replace("nats", scheme)) as ours:
        messages: list[bytes] = []
        await ours.subscribe("s", lambda msg: messages.append(msg.data))
        await ours.publish("s", b"payload")
        await until(lambda: messages)
        transport = ours.client._transport  # noqa: SLF001 - where bytes are read is not visible from outside
        assert isinstance(transport, Transport)
        return bytes(transport._buffer[:100])  # noqa: SLF001


@LOOPS
def test_bytes_are_read_into_one_buffer(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(buffered("", "nats")).startswith(b"MSG s 1 7\r\npayload\r\n")


@LOOPS
def test_bytes_are_read_into_one_buffer_with_tls(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca_file))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(buffered(made.nats_tls(), "tls")).startswith(b"MSG s 1 7\r\npayload\r\n")

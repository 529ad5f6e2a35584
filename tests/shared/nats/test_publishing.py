# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Messages are sent as nats-py sends them, and refused as nats-py refuses them."""

from __future__ import annotations

from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js import api

from shared.nats.publishing import PublishingClient

MESSAGES: list[tuple[Any, ...]] = [
    ("a.b",),
    ("a.b", b"\r\nPUB x 1\r\n\xff"),
    ("a.b", b"", "_INBOX.1.2"),
    ("ä", b"1", "ö", {}),
    ("a", b"1", "b", {"Nats-Expected-Last-Subject-Sequence": "12", api.Header.ROLLUP: "sub"}),
    ("a", b"1", "", {" Name ": " a\r\nb: c\n", "Empty": "", "Name2": "ä"}),
]


async def sent(kind: type[Client], message: tuple[Any, ...], **changed: object) -> list[bytes]:
    """What a client that is connected adds to the bytes that it sends next."""
    client = kind()
    vars(client).update({"_status": Client.CONNECTED, "_max_payload": 100, "_skip_subject_validation": True, **changed})
    await client.publish(*message)
    return client._pending  # noqa: SLF001 - without a socket


@pytest.mark.parametrize("message", MESSAGES)
async def test_a_message_is_sent_as_nats_py_sends_it(message: tuple[Any, ...]) -> None:
    assert await sent(PublishingClient, message) == await sent(Client, message)


@pytest.mark.parametrize(
    ("message", "changed", "error"),
    [
        (("",), {}, nats.errors.BadSubjectError),
        (("a", bytes(101)), {}, nats.errors.MaxPayloadError),
        (("a",), {"_status": Client.CLOSED}, nats.errors.ConnectionClosedError),
        (("a",), {"_status": Client.DRAINING_PUBS}, nats.errors.ConnectionDrainingError),
        (("a", b"1"), {"_status": Client.RECONNECTING, "_max_pending_size": 0}, nats.errors.OutboundBufferLimitError),
    ],
)
async def test_a_message_is_refused_as_nats_py_refuses_it(
    message: tuple[Any, ...], changed: dict[str, object], error: type[Exception]
) -> None:
    for kind in (Client, PublishingClient):
        with pytest.raises(error):
            await sent(kind, message, **changed)


async def test_messages_wait_for_the_next_connection_as_with_nats_py() -> None:
    reconnecting = {"_status": Client.RECONNECTING, "_max_pending_size": 1000}
    assert await sent(PublishingClient, ("a", b"1"), **reconnecting) == await sent(Client, ("a", b"1"), **reconnecting)

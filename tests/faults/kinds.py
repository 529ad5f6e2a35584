# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The kinds of messages between a process and NATS, and the faults that each kind can have. No sockets.

The faults are those that a client of NATS has to survive: a message that is lost, late or repeated, an error of
JetStream, an answer that cannot be read. The content of a stored value is never changed: no client could notice that.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from random import Random

    from tests.stack.nats_frames import Delivery, Publication

SERVICE: Final = "lfx.email-service."
SHORT_SECONDS: Final = (0.05, 1.0)
LONG_SECONDS: Final = (3.1, 5.0)  # longer than a process waits for a reply

ON_WAY: Final = ("delay", "drop", "repeat")
ON_REPLY: Final = ("delay reply", "late reply", "lose reply", "repeat reply", "garble reply")
READ: Final = (*ON_WAY, "late", *ON_REPLY, "503")
FAULTS: Final = {
    "write": (*READ, "10071", "10164", "10077"),
    "direct get": READ,
    "API": (*READ, "10077"),
    "delivery": (*ON_WAY, "garble"),
    "heartbeat": ON_WAY,
    "flow control": ON_WAY,
    "request": ON_WAY,
    "reply": ON_WAY,
    "push event": ON_WAY,
}
"""By kind; `delay` is shorter than the patience of the receiver, `late` is longer than that of a process."""

ERRORS: Final = {
    "10071": (400, 10071, "wrong last sequence: 0"),
    "10164": (400, 10164, "wrong last sequence"),
    "10077": (503, 10077, "maximum bytes exceeded"),
}

_UNREADABLE: Final = (
    b"",
    b"{",
    b"{}",
    b"[]",
    b"null",
    b'"',
    b"no JSON",
    b"\xff\xfe",
    b"[" * 5000,
    b'{"seq":"x","error":7}',
)
_HEADERS: Final = (
    b"",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: x\r\nNats-Num-Pending: x\r\n\r\n",
    b"NATS/1.0\r\ngarbled\r\n\r\n",
    b"NATS/1.0 500 Garbled\r\n\r\n",
)


def of_publication(publication: Publication) -> str:
    """Return the kind of a message that a process publishes; empty for one that has no faults."""
    subject = publication.subject
    if subject.startswith("$KV."):
        return "write"
    if subject.startswith("$JS.API.DIRECT.GET."):
        return "direct get"
    if subject.startswith("$JS.API."):
        return "API"
    if subject.startswith("$JS.FC."):
        return "flow control"
    if subject.startswith(f"{SERVICE}email_"):
        return "push event"
    return "reply" if subject.startswith("_INBOX.") else ""


def of_delivery(delivery: Delivery) -> str:
    """Return the kind of a message to a process that is not a reply; empty for one that has no faults."""
    if delivery.subject.startswith("$KV."):
        return "delivery"
    if delivery.subject.startswith(SERVICE):
        return "request"
    return "heartbeat" if delivery.headers.startswith(b"NATS/1.0 100") else ""


def identity(publication: Publication) -> str:
    """Return what a message to a caller or subscriber is known by: its subject, of a push event also the email."""
    if publication.subject.startswith(SERVICE):
        return f"{publication.subject} {json.loads(publication.payload)['email_id']}"
    return publication.subject


def garbled(delivery: Delivery, chance: Random) -> Delivery:
    """Return an answer that cannot be read: one without readable headers, or without readable JSON."""
    if delivery.headers:
        return replace(delivery, headers=chance.choice(_HEADERS), payload=chance.choice((b"", delivery.payload)))
    half = delivery.payload[: len(delivery.payload) // 2]
    return replace(delivery, payload=chance.choice((*_UNREADABLE, half)))


def without_sequence(delivery: Delivery) -> Delivery:
    """Return a message of a stream whose reply subject, which has its sequence, cannot be read."""
    return replace(delivery, reply="$JS.ACK.garbled")

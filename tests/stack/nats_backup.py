# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Backs up and restores streams with the snapshot API of JetStream, as `nats stream backup` and `restore` do.

Sources: the NATS docs on "JetStream wire API"; the types `api.v1.stream_snapshot_request` and `stream_restore_request`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from nats.aio.client import Client

CHUNK_BYTES: Final = 128 * 1024
PATIENCE_SECONDS: Final = 10.0


class Snapshot(NamedTuple):
    """A stream's configuration and state, and its compressed content in chunks."""

    config: dict[str, Any]
    state: dict[str, Any]
    chunks: list[bytes]


async def backup(client: Client, stream: str) -> Snapshot:
    """Return a snapshot of a stream, without its consumers."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    request = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES}
    answer = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{stream}", json.dumps(request).encode())
    chunks: list[bytes] = []
    while chunk := await subscription.next_msg(PATIENCE_SECONDS):
        if not chunk.data:  # the end
            break
        chunks.append(chunk.data)
        if chunk.reply:  # the server sends only so many chunks without an acknowledgement
            await client.publish(chunk.reply, b"")
    await subscription.unsubscribe()
    return Snapshot(answer["config"], answer["state"], chunks)


async def restore(client: Client, snapshot: Snapshot) -> None:
    """Create the stream of a snapshot, with its content."""
    request = {"config": snapshot.config, "state": snapshot.state}
    answer = await _ask(client, f"$JS.API.STREAM.RESTORE.{snapshot.config['name']}", json.dumps(request).encode())
    for chunk in [*snapshot.chunks, b""]:
        await _ask(client, answer["deliver_subject"], chunk)


async def _ask(client: Client, subject: str, payload: bytes) -> dict[str, Any]:
    reply = await client.request(subject, payload, timeout=PATIENCE_SECONDS)
    answer: dict[str, Any] = json.loads(reply.data or b"{}")
    if error := answer.get("error"):
        raise RuntimeError(f"{subject}: {error}")
    return answer

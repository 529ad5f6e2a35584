# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The path of a message from `publish` to the commands that nats-py sends together in one write.

nats-py awaits a coroutine for each step, and copies the payload three times. Each email has three messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nats.aio.client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINE_ENDS: Final = str.maketrans("\r\n", "  ")


class PublishingClient(Client):
    """A client that publishes with less CPU while it is connected."""

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Add a message to those that are sent next; nats-py waits, or raises, if it cannot be added.

        The names of `headers` are not checked; they are constants.
        """
        command = _command(subject, payload, reply, headers)
        is_accepted = subject and len(payload) <= self._max_payload and self._status == Client.CONNECTED
        if not is_accepted or self._pending_data_size + len(command) > self._max_pending_size:
            await super().publish(subject, payload, reply, headers)
            return
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue and self._flush_queue.empty():
            await self._flush_pending()


def _command(subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None) -> bytes:
    if headers is None:
        return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
    lines = "".join(f"{name.strip()}: {value.strip().translate(_LINE_ENDS)}\r\n" for name, value in headers.items())
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    sizes = len(block), len(block) + len(payload)
    return b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject.encode(), reply.encode(), *sizes, block, payload)

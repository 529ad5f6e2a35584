# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The client of nats-py, with messages passed on as their bytes arrive, and written at once or in the next turn.

Replaces nats-py's tasks for reading and writing: their turns of the event loop take a fifth of the CPU of a query.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nats.aio.client import Client
from nats.protocol import command

from shared.nats.dispatch import Dispatch
from shared.nats.transport import Transport

UNSENT_BYTES: Final = 65_536  # if more wait, nats-py's task writes, and waits for the server
SMALL_BYTES: Final = 1024  # a larger reply is written with the PING that follows it, as the server may disconnect
HEADER_LINE: Final = b"NATS/1.0\r\n"


class PromptClient(Client):
    """Passes messages on as their bytes arrive, and writes without a task; leaves to nats-py what has to wait."""

    def __init__(self) -> None:
        """Begin without a server."""
        super().__init__()
        # Whether the last read had a single message, and nothing was written since. Its reply is then written at once:
        # there are no replies to other messages of the same read, with which it could go in one write.
        self._has_lone_message = False
        self._writes_soon = False

    def take(self, data: memoryview) -> bytes:
        """Pass on the messages at the beginning of received bytes; return a copy of the rest, from a command on."""
        before = self.stats["in_msgs"]
        rest: bytes = self._ps.feed(data)  # type: ignore[attr-defined] # our parser
        self._has_lone_message = self.stats["in_msgs"] == before + 1
        return rest

    def refuses(self, sid: int, reply: bytes, size: int) -> bool:
        """Return whether the subscriber refuses a message whose payload has not been read."""
        subscription = self._subs.get(sid)
        dispatch: Any = subscription and subscription._future  # noqa: SLF001 - nats-py has no public name for it
        return isinstance(dispatch, Dispatch) and dispatch.refuses(reply, size)

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> bool:
        """Pass on one message; return false if nats-py has to process it."""
        subscription = self._subs.get(sid)
        future: Any = subscription and subscription._future  # noqa: SLF001 - as nats-py does
        if not subscription or not isinstance(future, Dispatch) or subscription._max_msgs:  # noqa: SLF001
            return False
        if headers and not headers.startswith(HEADER_LINE):  # it has a status
            return False
        try:
            fields = self._parse_header_lines(headers[len(HEADER_LINE) :]) if headers else None
            msg = self._build_message(sid, subject, reply, data, fields or None)
        except UnicodeDecodeError:
            return False
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        subscription._received += 1  # noqa: SLF001
        future.set_result(msg)
        return True

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, Any] | None = None
    ) -> None:
        """Publish as nats-py does, in one step if nothing has to be checked or to wait."""
        block = _header_block(headers) if headers is not None else b""
        if block is None or not subject or len(payload) > self._max_payload or not self._is_prompt:
            await super().publish(subject, payload, reply, headers)
            return
        if block:
            message = command.hpub_cmd(subject, reply, block, payload)
        else:
            message = command.pub_cmd(subject, reply, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(message)
        self._pending_data_size += len(message)
        self._write_promptly()

    def abort(self) -> None:
        """Close the socket at once, such as that of a server that does not answer; keep what it has not taken."""
        if isinstance(self._transport, Transport):
            self._transport.abort()
            unwritten = self._transport.take_unwritten()
            self._pending[:0] = unwritten
            self._pending_data_size += sum(map(len, unwritten))

    def flushes_promptly(self) -> bool:
        """Write without nats-py's task; return false if the server reads too slowly."""
        if not self._writes_soon:
            if not self._is_prompt:
                return False
            self._write_promptly()
        return True

    @property
    def _is_prompt(self) -> bool:
        """Whether nothing has to wait for the server. Subjects are checked by nats-py only."""
        transport = self._transport
        return (
            self._status == Client.CONNECTED
            and self._skip_subject_validation
            and isinstance(transport, Transport)
            and self._pending_data_size + transport.unsent_bytes < UNSENT_BYTES
        )

    def _write_promptly(self) -> None:
        """Write in the next turn of the event loop, with what is published until then; a small answer at once."""
        if self._writes_soon:
            return
        if self._has_lone_message and self._pending_data_size < SMALL_BYTES:
            self._has_lone_message = False
            self._write_pending()
        else:
            self._writes_soon = True
            asyncio.get_running_loop().call_soon(self._write_pending)

    def _write_pending(self) -> None:
        self._writes_soon = False
        if self._pending and self._transport and self.is_connected:
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(pending)


def _header_block(headers: dict[str, Any]) -> bytes | None:
    """Return the lines of headers; None if nats-py has to correct or refuse them."""
    block = HEADER_LINE + "".join([name + ": " + value + "\r\n" for name, value in headers.items()]).encode() + b"\r\n"
    is_correct = block.count(b"\n") == block.count(b"\r") == len(headers) + 2
    return block if is_correct else None

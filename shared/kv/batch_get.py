# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads the last messages of many subjects in one request (ADR-31, `multi_last`), with nats-server 2.11 and newer.

Replaces a direct get for each key, which takes more than three times as long.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.errors import ValueTooLarge
from shared.kv import jetstream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.msg import Msg

    from shared.nats.inbox import Inbox

MAX_SUBJECTS: Final = 1000  # for more than 1,024 matches the server answers 413 and no data
MAX_BYTES: Final = 4_000_000  # of one answer: a server disconnects a client that leaves 64 MB unread (`max_pending`)
AT_ONCE: Final = 4  # together far below that
STALE_PATIENCE_SECONDS: Final = 2.0


class BatchReader:
    """Reads batches from one stream, a few at a time."""

    def __init__(self, inbox: Inbox, stream: str) -> None:
        """Read from the stream of this name."""
        self._inbox = inbox
        self._stream = stream
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def read(self, subjects: Sequence[str], written: int) -> dict[str, Msg] | None:
        """Return the last message of each subject that has one; deletion markers are left out.

        Reads again until the server that answers has followed the stream to the sequence `written`. Returns None if
        the server does not give all of it in time, or cannot.

        Raises:
            StoreUnavailable: there was no answer.
        """
        deadline = time.monotonic() + STALE_PATIENCE_SECONDS
        while True:
            batch = await self._read_once(subjects)
            if batch is None:
                return None
            if batch.up_to_sequence >= written:
                return batch.messages
            if not batch.messages or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.05)

    async def _read_once(self, subjects: Sequence[str]) -> _Batch | None:
        try:
            async with self._slots:
                return await _read(self._inbox, self._stream, subjects)
        except ValueTooLarge:  # so many keys do not fit into a request
            return None


class _Batch(NamedTuple):
    """The messages by subject, and the sequence to which the server that answered had followed the stream."""

    messages: dict[str, Msg]
    up_to_sequence: int


async def _read(inbox: Inbox, stream: str, subjects: Sequence[str]) -> _Batch | None:
    query: dict[str, object] = {"multi_last": subjects, "max_bytes": MAX_BYTES}
    found: dict[str, Msg] = {}
    followed: list[int] = []
    while True:
        request = jetstream.encode(query)
        *messages, last = await inbox.collect(f"$JS.API.DIRECT.GET.{stream}", request, _is_end)
        end = _headers(last)
        if end[jetstream.STATUS] == jetstream.NO_RESULTS and not messages and not followed:
            return _Batch(found, 0)  # this answer has no sequence
        if end[jetstream.STATUS] != jetstream.END_OF_BATCH:  # 404 too, where a message expired meanwhile
            return None
        for msg in messages:
            found[_headers(msg)[jetstream.SUBJECT]] = msg
        followed.append(int(end[jetstream.UP_TO_SEQUENCE]))
        if int(end[jetstream.NUM_PENDING]) == 0:
            break
        # The answer was cut at the limit of bytes: continue behind its last message. A key that is written meanwhile
        # comes again; with `up_to_seq` it would be left out, since a bucket keeps no old values.
        query["seq"] = sequence(messages[-1]) + 1
    return _Batch({name: msg for name, msg in found.items() if not jetstream.is_deleted(_headers(msg))}, min(followed))


def sequence(msg: Msg) -> int:
    """Return the stream sequence of a message from a direct get."""
    return int(_headers(msg)[jetstream.SEQUENCE])


def _is_end(msg: Msg) -> bool:
    return jetstream.STATUS in _headers(msg)


def _headers(msg: Msg) -> Mapping[str, str]:
    return msg.headers or {}

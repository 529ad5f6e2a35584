# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads the last messages of many subjects in one request (ADR-31, `multi_last`), with nats-server 2.11 and newer.

Replaces a direct get for each key, which takes more than three times as long.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.errors import NoReply, ValueTooLarge
from shared.kv import jetstream
from shared.kv.jetstream import Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.msg import Msg

    from shared.nats.inbox import Inbox

MAX_SUBJECTS: Final = 1000  # for more than 1,024 matches the server answers 413 and no data
MAX_BYTES: Final = 4_000_000  # of one answer: a server disconnects a client that leaves 64 MB unread (`max_pending`)
AT_ONCE: Final = 4  # together far below that
STALE_PATIENCE_SECONDS: Final = 2.0
TRIES: Final = 3  # for an answer with messages missing
SINGLY_SECONDS: Final = 60.0
"""How long batches are avoided after one without an answer in time. The server reads every block of the stream that has
one of the keys, under a lock that holds up all writes; single reads let the writes pass.
"""


class BatchReader:
    """Reads batches from one stream, a few at a time."""

    def __init__(self, inbox: Inbox, stream: str) -> None:
        """Read from the stream of this name."""
        self._inbox = inbox
        self._stream = stream
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._singly_until = 0.0
        self._has_mirror = False

    async def read(self, subjects: Sequence[str], written: int) -> dict[str, Msg] | None:
        """Return the last message of each subject that has one; deletion markers are left out.

        Reads again until the server that answers has followed the stream to the sequence `written`. Returns None if
        the server does not give all of it in time, or cannot, or if a mirror has answered.

        Raises:
            StoreUnavailable: there is no connection or no bucket, or messages were missing in the answer each time.
        """
        if time.monotonic() < self._singly_until:
            return None
        deadline = time.monotonic() + STALE_PATIENCE_SECONDS
        while True:
            batch = await self._read_once(subjects)
            if batch is None or self._may_be_of_mirror(batch):
                return None
            if batch.up_to_sequence >= written:
                return batch.messages
            if not batch.messages or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.05)

    def _may_be_of_mirror(self, batch: _Batch) -> bool:
        """Return whether a mirror sent one of the messages; it may have sent an answer without messages, too."""
        if any(is_of_mirror(self._stream, msg) for msg in batch.messages.values()):
            self._has_mirror = True
            return True
        return self._has_mirror and not batch.messages

    async def _read_once(self, subjects: Sequence[str]) -> _Batch | None:
        for tries in count(1):
            try:
                async with self._slots:
                    return await _read(self._inbox, self._stream, subjects)
            except ValueTooLarge:  # so many keys do not fit into a request
                return None
            except NoReply:
                self._singly_until = time.monotonic() + SINGLY_SECONDS
                return None
            except Unreadable:
                if tries == TRIES:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")


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
        status = _headers(last)[jetstream.STATUS]
        if status == jetstream.NO_RESULTS and not messages and not followed:
            return _Batch(found, 0)  # this answer has no sequence
        if status != jetstream.END_OF_BATCH:  # 404 too, where a message expired meanwhile
            return None
        reached = _check_chain(messages, last)
        for msg in messages:
            found[jetstream.text(msg.headers, jetstream.SUBJECT)] = msg
        followed.append(jetstream.number(last.headers, jetstream.UP_TO_SEQUENCE))
        if followed[-1] < max(followed):  # from a server that is behind the one before: a key could be left out
            raise Unreadable
        if jetstream.number(last.headers, jetstream.NUM_PENDING) == 0:
            break
        if not messages:
            raise Unreadable
        # The answer was cut at the limit of bytes: continue behind its last message. A key that is written meanwhile
        # comes again; with `up_to_seq` it would be left out, since a bucket keeps no old values.
        query["seq"] = reached + 1
    return _Batch({name: msg for name, msg in found.items() if not jetstream.is_deleted(_headers(msg))}, min(followed))


def _check_chain(messages: Sequence[Msg], last: Msg) -> int:
    """Return the sequence of the last message. Each message and the end name the one before: raise Unreadable if not.

    NATS delivers at most once, so any message of an answer can be missing. The first one names the sequence 0.
    """
    reached = 0
    for msg in messages:
        if jetstream.number(msg.headers, jetstream.LAST_SEQUENCE) != reached:
            raise Unreadable
        reached = sequence(msg)
    if jetstream.number(last.headers, jetstream.LAST_SEQUENCE) != reached:
        raise Unreadable
    return reached


def is_of_mirror(stream: str, msg: Msg) -> bool:
    """Return whether a message comes from a mirror of the stream, which may be behind, and keeps purged values.

    A mirror with `mirror_direct`, as the nats CLI makes it, answers direct gets of its origin in turn with it.
    """
    return _headers(msg).get(jetstream.STREAM, stream) != stream


def sequence(msg: Msg) -> int:
    """Return the stream sequence of a message from a direct get, or raise Unreadable."""
    return jetstream.number(msg.headers, jetstream.SEQUENCE)


def _is_end(msg: Msg) -> bool:
    return jetstream.STATUS in _headers(msg)


def _headers(msg: Msg) -> Mapping[str, str]:
    return msg.headers or {}

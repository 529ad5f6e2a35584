# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the last values of many keys in one request (ADR-31, `multi_last`), from nats-server 2.11 on.

Replaces a direct get per key, which takes more than three times as long.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.errors import StoreUnavailable, ValueTooLarge
from shared.kv import jetstream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.msg import Msg

    from shared.kv.stream import BucketStream
    from shared.nats.inbox import Inbox

MAX_SUBJECTS: Final = 1000  # more than 1,024 matches are answered 413 and no data
MAX_BYTES: Final = 4_000_000  # of one answer: a server cuts off whoever leaves 64 MB unread (its `max_pending`)
AT_ONCE: Final = 4  # together far below that
STALE_PATIENCE_SECONDS: Final = 2.0


class Batches:
    """Reads batches from one bucket's stream."""

    def __init__(self, inbox: Inbox, stream: BucketStream) -> None:
        """Take the stream."""
        self._inbox = inbox
        self._stream = stream
        self._places = asyncio.Semaphore(AT_ONCE)

    async def read(self, filters: Sequence[str]) -> dict[str, Msg] | None:
        """Return the last message of each key that matches and has one; None if the server does not give all at once.

        With replicas it reads until the server that answers has all that the leader had before.

        Raises:
            StoreUnavailable: no answer.
        """
        config = await self._stream.config()
        if not config.allow_direct:
            return None
        deadline = time.monotonic() + STALE_PATIENCE_SECONDS
        needed = (await self._stream.info()).state.last_seq if config.num_replicas > 1 else 0
        while True:
            batch = await self._read_once(filters)
            if batch is None:
                return None
            if batch.up_to_sequence >= needed:
                skip = len(self._stream.prefix)
                return {subject[skip:]: msg for subject, msg in batch.messages.items()}
            if not batch.messages or time.monotonic() > deadline:
                return None
            await asyncio.sleep(0.05)

    async def _read_once(self, filters: Sequence[str]) -> Batch | None:
        subjects = [self._stream.prefix + one for one in filters]
        try:
            async with self._places:
                return await _read(self._inbox, self._stream.name, subjects)
        except ValueTooLarge:  # so many keys do not fit into a request
            return None
        except StoreUnavailable as error:
            raise self._stream.unanswered(error) from error


class Batch(NamedTuple):
    """The messages by subject, deletion markers left out, and how far the server that answered had followed."""

    messages: dict[str, Msg]
    up_to_sequence: int


async def _read(inbox: Inbox, stream: str, subjects: Sequence[str]) -> Batch | None:
    query: dict[str, object] = {"multi_last": subjects, "max_bytes": MAX_BYTES}
    found: dict[str, Msg] = {}
    followed: list[int] = []
    while True:
        request = jetstream.encode(query)
        *messages, last = await inbox.collect(f"$JS.API.DIRECT.GET.{stream}", request, _is_end)
        end = _headers(last)
        if end[jetstream.STATUS] == jetstream.NO_RESULTS and not messages and not followed:
            return Batch(found, 0)  # it does not say how far it has followed
        if end[jetstream.STATUS] != jetstream.END_OF_BATCH:  # 404 too, where a message expired meanwhile
            return None
        for msg in messages:
            found[_headers(msg)[jetstream.SUBJECT]] = msg
        followed.append(int(end[jetstream.UP_TO_SEQUENCE]))
        if int(end[jetstream.NUM_PENDING]) == 0:
            break
        # Cut short by the limit of bytes. What is left is not absent: go on behind what came. A key that is
        # written meanwhile comes again; with `up_to_seq` it would be left out, since a bucket keeps no old values.
        query["seq"] = sequence(messages[-1]) + 1
    return Batch({name: msg for name, msg in found.items() if not jetstream.is_deleted(_headers(msg))}, min(followed))


def sequence(msg: Msg) -> int:
    """Return the stream sequence of a message that was got directly."""
    return int(_headers(msg)[jetstream.SEQUENCE])


def _is_end(msg: Msg) -> bool:
    return jetstream.STATUS in _headers(msg)


def _headers(msg: Msg) -> Mapping[str, str]:
    return msg.headers or {}

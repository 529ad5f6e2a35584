# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the last messages of many subjects in one request (ADR-31, `multi_last`), from nats-server 2.11 on.

Replaces a direct get per key, which takes twice as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shared import jetstream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.msg import Msg

    from shared.inbox import Inbox

MAX_SUBJECTS: Final = 1000  # more than 1,024 matches are answered 413 and no data


class Batch(NamedTuple):
    """The messages by subject, deletion markers left out, and how far the server that answered had followed."""

    messages: dict[str, Msg]
    up_to_sequence: int


async def read(inbox: Inbox, stream: str, subjects: Sequence[str]) -> Batch | None:
    """Return the last message of each subject that matches and has one; None if the server cannot: 413, 408.

    Raises:
        StoreUnavailable: no answer.
    """
    query: dict[str, object] = {"multi_last": subjects}
    found: dict[str, Msg] = {}
    while True:
        request = jetstream.encode(query)
        *messages, end = await inbox.collect(f"$JS.API.DIRECT.GET.{stream}", request, _is_end)
        ended = end.headers or {}
        if ended[jetstream.STATUS] == jetstream.NO_RESULTS:  # and not how far it has followed
            return Batch(found, 0)
        if ended[jetstream.STATUS] != jetstream.END_OF_BATCH:
            return None
        for msg in messages:
            headers = msg.headers or {}
            if not jetstream.is_deleted(headers):
                found[headers[jetstream.SUBJECT]] = msg
        up_to = int(ended[jetstream.UP_TO_SEQUENCE])
        if int(ended[jetstream.NUM_PENDING]) == 0:
            return Batch(found, up_to)
        # Cut short by the server's limit of bytes. What is left is not absent: go on behind what came.
        query |= {"seq": sequence(messages[-1]) + 1, "up_to_seq": up_to}


def sequence(msg: Msg) -> int:
    """Return the stream sequence of a message that was got directly."""
    return int((msg.headers or {})[jetstream.SEQUENCE])


def _is_end(msg: Msg) -> bool:
    return jetstream.STATUS in (msg.headers or {})

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The KV buckets: create them, fill them as the relay does, and read them; and the stream of push events."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
from nats.js.api import KeyValueConfig

from shared import contract, group_index
from tests.bench import mails
from tests.bench.caller import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from nats.aio.msg import Msg

    from tests.bench.caller import Caller

RECORDS = f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}."
INDEX = f"$KV.{contract.EMAIL_GROUP_INDEX_BUCKET}."
BATCH = 1000  # writes between two acknowledged ones: a stream drops writes that it cannot buffer
BATCH_GET = f"$JS.API.DIRECT.GET.KV_{contract.EMAIL_RECIPIENTS_BUCKET}"
_INDEX_GET = f"$JS.API.DIRECT.GET.KV_{contract.EMAIL_GROUP_INDEX_BUCKET}"


async def create(caller: Caller) -> None:
    """Create both buckets as the relay's chart does."""
    jetstream = caller.client.jetstream()
    for name in contract.BUCKETS:
        await jetstream.create_key_value(KeyValueConfig(name, history=1, direct=True))


@asynccontextmanager
async def push_events_stream(caller: Caller) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Have the stream of push events during the block; yield a function that returns how many messages it holds."""
    jetstream, name = caller.client.jetstream(), contract.PUSH_EVENTS_STREAM
    await jetstream.add_stream(name=name, subjects=list(contract.PUSH_EVENT_SUBJECTS), duplicate_window=600)

    async def count() -> int:
        return (await jetstream.stream_info(name)).state.messages

    try:
        yield count
    finally:
        await jetstream.delete_stream(name)


async def fill_group(caller: Caller, group_id: str, count: int) -> list[str]:
    """Write the records and the index of a group; return its email ids in send order."""
    email_ids = mails.new_ids(count)
    await _write(caller, ((RECORDS + email_id, mails.record(email_id, group_id)) for email_id in email_ids))
    await _write(caller, _segments(group_id, email_ids))
    return email_ids


async def read_group(caller: Caller, group_id: str) -> list[str]:
    """Return the email ids in a group's index, in send order."""
    return [email_id for segment in await read_segments(caller, group_id) for email_id in segment]


async def read_segments(caller: Caller, group_id: str) -> list[list[str]]:
    """Return the segments of a group's index in one batch."""
    key = group_index.key_of(group_id)
    wanted = [INDEX + key, INDEX + group_index.later_segments(key)]
    replies = await _batch_get(caller, _INDEX_GET, wanted)
    numbered = [(_segment_number(msg), msg.data) for msg in replies]
    return [msgspec.json.decode(value, type=list[str]) for _, value in sorted(numbered)]


async def read_records(caller: Caller, email_ids: Sequence[str]) -> list[bytes]:
    """Return the records of these emails, read in batches: the limit of NATS."""
    found: list[bytes] = []
    for start in range(0, len(email_ids), BATCH):
        wanted = [RECORDS + email_id for email_id in email_ids[start : start + BATCH]]
        found += [msg.data for msg in await _batch_get(caller, BATCH_GET, wanted)]
    return found


async def _batch_get(caller: Caller, subject: str, wanted: list[str]) -> list[Msg]:
    request = Request(subject, msgspec.json.encode({"multi_last": wanted}))
    *messages, end = await caller.collect(request, lambda msg: "Status" in (msg.headers or {}))
    if (end.headers or {}).get("Nats-Num-Pending") != "0":
        raise RuntimeError(f"the batch is not complete: {end.headers}")
    return messages


def _segment_number(msg: Msg) -> int:
    return group_index.segment_number((msg.headers or {})["Nats-Subject"].removeprefix(INDEX))


async def _write(caller: Caller, values: Iterable[tuple[str, bytes]]) -> None:
    pairs = list(values)
    for start in range(0, len(pairs), BATCH):
        *unawaited, last = pairs[start : start + BATCH]
        for key, value in unawaited:
            await caller.client.publish(key, value)
        await caller.ask(Request(*last))


def _segments(group_id: str, email_ids: list[str]) -> Iterable[tuple[str, bytes]]:
    key, segment, start = group_index.key_of(group_id), group_index.FIRST, 0
    while start < len(email_ids):
        some = email_ids[start : start + group_index.capacity(segment)]
        yield INDEX + group_index.segment_key(key, segment), group_index.encode(some)
        start, segment = start + len(some), segment + 1

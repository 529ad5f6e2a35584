# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The reader returns the ids of a group in send order, and those records that can be read, from a real server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from nats.js.api import KeyValueConfig

from shared import contract, group_index
from shared.errors import KeyMissing, StoreUnavailable
from shared.kv.bucket import Bucket
from tests.tracker.examples import record, stored
from tracker.errors import IndexCorrupt
from tracker.events import records
from tracker.queries import seal
from tracker.queries.group_reader import GroupReader
from tracker.queries.seal import Leaving, Seal, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_server import NatsServer

CORRUPT = (b"", b"{}", b'["a"', b"[1]", b"\xff", b"[" * 100_000)


@pytest.fixture
def reader(recipients: Bucket, index: Bucket) -> GroupReader:
    """A reader of both buckets on the server."""
    return GroupReader(recipients, index)


async def put_index(index: Bucket, group_id: str, *segments: Sequence[str] | bytes) -> None:
    """Write the segments of a group, from ids or from bytes."""
    key = group_index.key_of(group_id)
    values = [one if isinstance(one, bytes) else group_index.encode(one) for one in segments]
    await asyncio.gather(*(index.create(group_index.segment_key(key, at), value) for at, value in enumerate(values)))


async def put_records(recipients: Bucket, email_ids: Sequence[str]) -> None:
    places = asyncio.Semaphore(100)

    async def put(email_id: str) -> None:
        async with places:
            await recipients.create(email_id, records.encode(record(email_id=email_id)))

    await asyncio.gather(*map(put, email_ids))


async def read(reader: GroupReader, email_ids: Sequence[str]) -> list[str]:
    return [one.email_id async for page in reader.records(email_ids) for one in page]


@pytest.mark.parametrize("group_id", ["g", "a.b", "Spring 2025", "=x", "é*>", "a..b", "x" * 255])
async def test_ids_come_in_send_order_over_all_segments(reader: GroupReader, index: Bucket, group_id: str) -> None:
    segments = [["z", "a"], ["m"], ["c", "b"], *([str(number)] for number in range(3, 12))]
    await put_index(index, group_id, *segments)
    await put_index(index, f"{group_id[:250]}.1", ["of", "another"], ["group"])
    assert await reader.email_ids(group_id) == ["z", "a", "m", "c", "b", *(str(number) for number in range(3, 12))]


async def test_segments_are_returned_by_their_numbers(reader: GroupReader, index: Bucket) -> None:
    await put_index(index, "g", ["a"], ["b"])
    assert await reader.segments("g") == {0: Segment(("a",)), 1: Segment(("b",))}
    assert await reader.segment("g", 1) == Segment(("b",))
    assert await reader.segment("g", 2) is None


async def test_an_id_that_is_listed_twice_is_one_email(reader: GroupReader, index: Bucket) -> None:
    await put_index(index, "g", ["b", "a", "b"], ["a", "c"])
    assert await reader.email_ids("g") == ["b", "a", "c"]


@pytest.mark.parametrize("email_id", ["", "a b", "*", ">", "a.*", ".", "a..b", "é"])
async def test_an_id_that_cannot_be_a_key_is_left_out(reader: GroupReader, index: Bucket, email_id: str) -> None:
    await put_index(index, "g", ["a", email_id, "b"])
    assert await reader.email_ids("g") == ["a", "b"]


async def test_more_segments_than_a_batch_may_hold_are_read(reader: GroupReader, index: Bucket) -> None:
    await put_index(index, "g", *([str(number)] for number in range(1100)))
    assert await reader.email_ids("g") == [str(number) for number in range(1100)]


@pytest.mark.parametrize("value", CORRUPT, ids=range(len(CORRUPT)))
async def test_a_corrupt_segment_costs_its_own_ids_only(
    reader: GroupReader, index: Bucket, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    await put_index(index, "g", ["a"], value, ["c"])
    assert await reader.email_ids("g") == ["a", "c"]
    assert await reader.segment("g", 1) is None
    assert {(one.message, vars(one)["key"]) for one in caplog.records} == {("group_index.corrupt", "=.1.g")}


@pytest.mark.parametrize("value", [b"{}", b"\xff"])
async def test_a_corrupt_first_segment_does_not_hide_the_others(
    reader: GroupReader, index: Bucket, value: bytes
) -> None:
    await put_index(index, "g", value, ["b"])
    assert await reader.email_ids("g") == ["b"]


async def test_an_index_without_a_readable_segment_is_corrupt_and_not_empty(reader: GroupReader, index: Bucket) -> None:
    await put_index(index, "g", b"{}", b"\xff")
    with pytest.raises(IndexCorrupt):
        await reader.email_ids("g")


@pytest.mark.parametrize("value", [b"[]", b"null"])
async def test_an_empty_index_is_a_group_without_emails(reader: GroupReader, index: Bucket, value: bytes) -> None:
    await put_index(index, "g", value)
    assert await reader.email_ids("g") == []


LEAVING = Seal(total_sent=3, opened=2, leaving={"b": Leaving(5, 1, 0, 0, 0)})


async def put_seal(index: Bucket, group_id: str, number: int, sealed: Seal) -> None:
    await index.create(group_index.seal_key(group_index.key_of(group_id), number), seal.encode(sealed))


@pytest.mark.parametrize("group_id", ["g", "a.b", "Spring 2025"])
async def test_a_segment_is_returned_with_its_seal_and_a_seal_is_not_a_segment(
    reader: GroupReader, index: Bucket, group_id: str
) -> None:
    await put_index(index, group_id, ["a"], ["b"])
    await put_seal(index, group_id, 1, LEAVING)
    await put_seal(index, f"x.{group_id}", 0, Seal(total_sent=9))
    assert await reader.segments(group_id) == {0: Segment(("a",)), 1: Segment(("b",), LEAVING)}
    assert await reader.segment(group_index.key_of(group_id), 1) == Segment(("b",), LEAVING)
    assert await reader.email_ids(group_id) == ["a", "b"]


async def test_a_group_of_which_only_the_seal_is_left_is_empty_and_not_missing(
    reader: GroupReader, index: Bucket
) -> None:
    await put_seal(index, "g", 0, Seal(total_sent=1))
    assert await reader.email_ids("g") == []
    assert await reader.segments("g") == {0: Segment((), Seal(total_sent=1))}


async def test_seals_are_read_one_by_one_too(reader: GroupReader, index: Bucket) -> None:
    await put_index(index, "g", *([str(number)] for number in range(1100)))
    await put_seal(index, "g", 1001, LEAVING)
    segments = await reader.segments("g")
    assert len(segments) == 1100
    assert segments[1001] == Segment(("1001",), LEAVING)


async def test_a_seal_that_cannot_be_read_is_an_error(
    reader: GroupReader, index: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    await put_index(index, "g", ["a"])
    await index.create("=seal.0.g", b"{")
    with pytest.raises(IndexCorrupt):
        await reader.segments("g")
    assert {(one.message, vars(one)["key"]) for one in caplog.records} == {("group_index.corrupt", "=seal.0.g")}


@pytest.mark.parametrize("group_id", ["unknown", "un known", "", "x" * 256, "a\nb", "a\0"])
async def test_a_group_without_emails_is_missing(reader: GroupReader, index: Bucket, group_id: str) -> None:
    await put_index(index, "g", ["a"])
    with pytest.raises(KeyMissing):
        await reader.email_ids(group_id)


async def test_a_group_whose_index_was_deleted_is_missing(
    reader: GroupReader, index: Bucket, connection: Connection
) -> None:
    await put_index(index, "g", ["a"])
    await (await connection.client.jetstream().key_value(contract.EMAIL_GROUP_INDEX_BUCKET)).delete("g")
    with pytest.raises(KeyMissing):
        await reader.email_ids("g")


async def test_records_come_in_the_order_of_the_ids_a_thousand_at_a_time(
    reader: GroupReader, recipients: Bucket
) -> None:
    ids = [f"id-{number}" for number in reversed(range(2300))]
    await put_records(recipients, ids)
    pages = [[one.email_id for one in page] async for page in reader.records(ids)]
    assert [len(page) for page in pages] == [1000, 1000, 300]
    assert [one for page in pages for one in page] == ids


async def test_missing_deleted_and_corrupt_records_are_left_out(
    reader: GroupReader, recipients: Bucket, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await put_records(recipients, ["a", "b", "deleted"])
    await (await connection.client.jetstream().key_value(contract.EMAIL_RECIPIENTS_BUCKET)).delete("deleted")
    await recipients.create("corrupt", b"{}")
    await recipients.create("go", stored(email_id="go", delivered_at=None))
    assert await read(reader, ["b", "missing", "corrupt", "go", "deleted", "a"]) == ["b", "go", "a"]
    assert [(one.message, one.levelno) for one in caplog.records] == [("record.corrupt", logging.WARNING)]


async def test_a_group_without_ids_has_no_pages(reader: GroupReader) -> None:
    assert await read(reader, []) == []


async def test_buckets_without_direct_gets_are_read_too(connection: Connection, inbox: Inbox) -> None:
    for name in contract.BUCKETS[:2]:
        await connection.client.jetstream().create_key_value(KeyValueConfig(bucket=name, history=1, direct=False))
    recipients, index = (Bucket(inbox, connection, name) for name in contract.BUCKETS[:2])
    reader = GroupReader(recipients, index)
    await put_index(index, "g", ["b", "gone"], ["a"], b"{}", ["c"])
    await put_seal(index, "g", 1, LEAVING)
    assert (await reader.segments("g"))[1] == Segment(("a",), LEAVING)
    await put_records(recipients, ["a", "b", "c"])
    assert not (await index.info()).config.allow_direct
    ids = await reader.email_ids("g")
    assert ids == ["b", "gone", "a", "c"]
    assert await read(reader, ids) == ["b", "a", "c"]
    with pytest.raises(KeyMissing):
        await reader.email_ids("unknown")


@pytest.mark.parametrize("is_known", [False, True])
async def test_without_its_stream_a_group_is_unavailable_and_not_missing(
    reader: GroupReader, index: Bucket, recipients: Bucket, connection: Connection, *, is_known: bool
) -> None:
    if is_known:  # the cached configuration of the bucket must not hide the outage
        await put_index(index, "g", ["a"])
        await put_records(recipients, ["a"])
        assert await read(reader, await reader.email_ids("g")) == ["a"]
    for name in contract.BUCKETS[:2]:
        await connection.client.jetstream().delete_stream(f"KV_{name}")
    with pytest.raises(StoreUnavailable):
        await reader.email_ids("g")
    with pytest.raises(StoreUnavailable):
        await read(reader, ["a"])
    with pytest.raises(StoreUnavailable):
        await reader.segment("g", 0)


async def test_without_its_server_a_group_is_unavailable(
    reader: GroupReader, connection: Connection, nats: NatsServer
) -> None:
    gone = asyncio.Event()
    connection.on_disconnect(gone.set)
    await nats.kill()
    await gone.wait()
    with pytest.raises(StoreUnavailable):
        await reader.email_ids("g")
    with pytest.raises(StoreUnavailable):
        await read(reader, ["a"])

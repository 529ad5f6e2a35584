# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Record first, then index; what KV cannot store is kept, then stored later or logged as lost."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest
from nats.js.api import RetentionPolicy

from relay.records import record_writer
from relay.records.record_writer import RecordWriter
from shared.contract import EmailRecipientRecord
from shared.erasure import Erasures
from shared.errors import KeyMissing, StoreUnavailable
from shared.index_writer import IndexWriter
from shared.kv.bucket import Bucket
from tests.stack import nats_proxy as proxies
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.relay.kv import Buckets
    from tests.stack.nats_proxy import NatsProxy


@pytest.fixture
def recipients(inbox: Inbox, nats_connection: Connection, buckets: Buckets) -> Bucket:
    """The records of this test."""
    return buckets.recipients(inbox, nats_connection)


@pytest.fixture
async def records(recipients: Bucket, index_writer: IndexWriter) -> AsyncIterator[RecordWriter]:
    """The record writer of a relay, through the proxy."""
    async with RecordWriter(recipients, index_writer) as writer:
        yield writer


def record() -> EmailRecipientRecord:
    return EmailRecipientRecord(
        email_id=str(uuid4()), group_id="g", to="a@example.com", subject="Hi", sent_at=datetime.now(UTC)
    )


def soon(seconds: float = 0.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_record_is_kept_while_its_stream_would_accept_and_lose_it(
    records: RecordWriter, recipients: Bucket, jetstream: JetStreamContext
) -> None:
    stream = (await jetstream.stream_info(recipients.stream_name)).config
    await jetstream.delete_stream(recipients.stream_name)
    await jetstream.add_stream(stream, retention=RetentionPolicy.INTEREST)
    sent = record()
    await records.write(sent, deadline=soon())
    assert records.kept == 1
    await jetstream.delete_stream(recipients.stream_name)
    await jetstream.add_stream(stream, retention=RetentionPolicy.LIMITS)
    await until(lambda: not records.kept)
    assert await recipients.get_from_leader(sent.email_id)


async def test_a_record_is_stored_and_named_by_its_group(
    records: RecordWriter, recipients: Bucket, buckets: Buckets
) -> None:
    one = record()
    await records.write(one, deadline=soon(5))
    assert one.email_id.encode() in (await recipients.get(one.email_id)).value
    assert await buckets.ids("g") == [one.email_id]
    assert records.kept == 0


async def test_the_index_never_names_a_record_that_was_not_written(
    records: RecordWriter, recipients: Bucket, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    one = record()
    nats_proxy.answer(f"$KV.{buckets.recipients_name}.", 3, proxies.js_error(503, 10077, "maximum bytes exceeded"))
    writing = asyncio.create_task(records.write(one, deadline=soon(5)))
    await until(lambda: records.kept == 1)
    assert await buckets.ids("g") == []
    await writing
    assert await buckets.ids("g") == [one.email_id]
    assert (await recipients.get(one.email_id)).revision


@pytest.mark.parametrize("fault", [proxies.no_responders(), proxies.js_error(400, 10071, "wrong last sequence")])
async def test_a_short_fault_of_kv_loses_no_record(
    records: RecordWriter,
    buckets: Buckets,
    nats_proxy: NatsProxy,
    fault: Callable[[proxies.Publication], proxies.Answer],
) -> None:
    nats_proxy.answer("$KV.", 2, fault)
    ones = [record() for _ in range(10)]
    await asyncio.gather(*(records.write(one, deadline=soon(5)) for one in ones))
    assert sorted(await buckets.ids("g")) == sorted(one.email_id for one in ones)


async def test_without_buckets_a_write_ends_at_its_deadline_and_is_stored_when_they_are_back(
    records: RecordWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_writer, "LEAST_PATIENCE_SECONDS", 0.2)
    await buckets.delete()
    ones = [record() for _ in range(200)]
    began = soon()
    await asyncio.gather(*(records.write(one, deadline=soon(0.2)) for one in ones))
    assert soon() - began < 5
    assert records.kept == 200
    await buckets.make()
    await until(lambda: records.kept == 0, timeout=20)
    assert sorted(await buckets.ids("g")) == sorted(one.email_id for one in ones)
    assert records.stored_late == 200


async def test_a_record_that_is_stored_after_its_recipient_was_erased_has_no_personal_data(
    records: RecordWriter, recipients: Bucket, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    one, other = record(), msgspec.structs.replace(record(), to="b@example.com")
    await Erasures(recipients).note("a@example.com", datetime.now(UTC))
    nats_proxy.answer(f"$KV.{buckets.recipients_name}.", 2, proxies.js_error(503, 10077, "maximum bytes exceeded"))
    await asyncio.gather(*(records.write(each, deadline=soon(5)) for each in (one, other)))
    assert records.stored_late == 2
    stored = msgspec.json.decode((await recipients.get(one.email_id)).value)
    assert (stored["to"], stored["subject"], stored["group_id"]) == ("erased", "erased", "g")
    assert b"b@example.com" in (await recipients.get(other.email_id)).value
    assert sorted(await buckets.ids("g")) == sorted([one.email_id, other.email_id])


async def test_a_repeat_leaves_a_record_erased_that_exists(records: RecordWriter, recipients: Bucket) -> None:
    one = record()
    await records.write(one, deadline=soon(5))
    assert await Erasures(recipients).erase(one.email_id)
    await records.write(one, deadline=soon(5), again=True)
    assert b"a@example.com" not in (await recipients.get(one.email_id)).value


async def test_an_unexpected_error_loses_no_record_and_does_not_stop_the_retries(
    records: RecordWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create, calls = Bucket.create, itertools.count(1)

    async def fail_twice(self: Bucket, key: str, value: bytes) -> int:
        if next(calls) <= 2:
            raise RuntimeError
        return await create(self, key, value)

    monkeypatch.setattr(Bucket, "create", fail_twice)
    one, other = record(), record()
    await records.write(one, deadline=soon(5))
    await records.write(other, deadline=soon(5))
    assert await buckets.ids("g") == [one.email_id, other.email_id]
    failed = [line for line in caplog.records if line.message == "record.failed"]
    assert [line.__dict__["email_id"] for line in failed] == [one.email_id] * 2


async def test_a_write_whose_reply_is_lost_adds_its_id_once(
    records: RecordWriter, buckets: Buckets, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.nats.inbox.TIMEOUT_SECONDS", 0.8)
    nats_proxy.lose_reply("$KV.", 4)
    ones = [record() for _ in range(3)]
    await asyncio.gather(*(records.write(one, deadline=soon(5)) for one in ones))
    wanted = sorted(one.email_id for one in ones)
    await until(lambda: _sorted_ids(buckets), lambda ids: ids == wanted)


@pytest.mark.parametrize("is_listed", [False, True])
async def test_a_record_that_the_tracker_has_rebuilt_stays_and_is_listed_once(
    records: RecordWriter, recipients: Bucket, index_writer: IndexWriter, buckets: Buckets, *, is_listed: bool
) -> None:
    one = record()
    await recipients.create(one.email_id, b'{"delivered":true}')
    if is_listed:
        await index_writer.append(one.group_id, one.email_id)
    await records.write(one, deadline=soon(5))
    assert (await recipients.get(one.email_id)).value == b'{"delivered":true}'
    assert await buckets.ids(one.group_id) == [one.email_id]


async def _sorted_ids(buckets: Buckets) -> list[str]:
    return sorted(await buckets.ids("g"))


async def test_a_stop_logs_the_records_it_cannot_store(
    recipients: Bucket,
    index_writer: IndexWriter,
    buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(record_writer, "LEAST_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(record_writer, "FLUSH_SECONDS", 0.2)
    await buckets.delete()
    one = record()
    async with RecordWriter(recipients, index_writer) as writer:
        await writer.write(one, deadline=soon())
    lost = [line for line in caplog.records if line.message == "record.lost"]
    assert [line.__dict__["email_id"] for line in lost] == [one.email_id]
    assert writer.lost == 1


async def test_the_writer_is_full_while_too_many_records_are_kept(
    records: RecordWriter, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_writer, "LEAST_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(record_writer, "MAX_KEPT", 2)
    await buckets.delete()
    await asyncio.gather(*(records.write(record(), deadline=soon()) for _ in range(2)))
    assert records.is_full
    await buckets.make()
    await until(lambda: not records.is_full)


async def test_records_that_are_never_stored_do_not_hold_up_the_others(
    records: RecordWriter, buckets: Buckets, nats_proxy: NatsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_writer, "LEAST_PATIENCE_SECONDS", 0.1)
    full = proxies.js_error(503, 10077, "maximum bytes exceeded")
    never = [record() for _ in range(record_writer.RETRIED_AT_ONCE)]
    for one in never:
        nats_proxy.answer(f"$KV.{buckets.recipients_name}.{one.email_id}", 1000, full)
    await asyncio.gather(*(records.write(one, deadline=soon()) for one in never))
    other = record()
    nats_proxy.answer(f"$KV.{buckets.recipients_name}.{other.email_id}", 1, full)
    await records.write(other, deadline=soon())
    await until(lambda: records.stored_late == 1, timeout=20)
    assert await buckets.ids("g") == [other.email_id]
    nats_proxy.forget_plans()
    await until(lambda: not records.kept, timeout=20)


class InterruptedIndex(IndexWriter):
    """Is interrupted by something else in its first attempts."""

    interruptions = 3

    async def append(self, group_id: str, email_id: str, *, again: bool = False) -> None:
        """Append, or behave as if a task that is waited for was cancelled."""
        self.interruptions -= 1
        if self.interruptions == 2:
            raise StoreUnavailable
        if self.interruptions >= 0:
            raise asyncio.CancelledError
        await super().append(group_id, email_id, again=again)


async def test_the_retries_continue_after_one_is_interrupted(
    recipients: Bucket, inbox: Inbox, nats_connection: Connection, buckets: Buckets
) -> None:
    index = InterruptedIndex(buckets.group_index(inbox, nats_connection))
    async with RecordWriter(recipients, index) as records:
        one = record()
        await records.write(one, deadline=soon(5))
        assert records.kept == 0
    assert await buckets.ids("g") == [one.email_id]


@pytest.mark.parametrize("later", ["another record", "nothing", "stop"])
async def test_the_retries_begin_again_after_their_task_has_ended(  # noqa: PLR0913, PLR0917 - two servers and a table
    recipients: Bucket,
    index_writer: IndexWriter,
    buckets: Buckets,
    nats_proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    later: str,
) -> None:
    monkeypatch.setattr(record_writer, "LEAST_PATIENCE_SECONDS", 0.1)
    ones = [record(), record()]
    before = asyncio.all_tasks()
    async with RecordWriter(recipients, index_writer) as records:
        [retries] = asyncio.all_tasks() - before
        nats_proxy.answer(f"$KV.{buckets.recipients_name}.", 100, proxies.no_responders())
        await records.write(ones[0], deadline=soon())
        retries.cancel()
        await asyncio.wait({retries})
        nats_proxy.forget_plans()
        if later == "another record":
            nats_proxy.answer(f"$KV.{buckets.recipients_name}.", 1, proxies.no_responders())
            await records.write(ones[1], deadline=soon(5))
        if later != "stop":
            await until(lambda: not records.kept)
    assert records.lost == 0
    assert ones[0].email_id in await buckets.ids("g")


async def test_a_record_that_is_kept_twice_releases_both_requests(
    records: RecordWriter, buckets: Buckets, nats_proxy: NatsProxy
) -> None:
    one = record()
    nats_proxy.answer(f"$KV.{buckets.recipients_name}.", 6, proxies.no_responders())
    async with asyncio.timeout(20):
        await asyncio.gather(*(records.write(one, deadline=soon(30), again=again) for again in (False, True)))
    assert await buckets.ids("g") == [one.email_id]
    assert records.kept == 0


async def test_with_sending_disabled_no_record_is_written(recipients: Bucket) -> None:
    one = record()
    await record_writer.DisabledRecordWriter().write(one, deadline=soon())
    with pytest.raises(KeyMissing):
        await recipients.get(one.email_id)


@pytest.mark.parametrize("missing", ["record and index entry", "index entry", "nothing"])
async def test_a_write_again_adds_what_is_missing_and_nothing_twice(
    missing: str, records: RecordWriter, recipients: Bucket, buckets: Buckets
) -> None:
    one, other = record(), record()
    await records.write(other, deadline=soon(5))
    if missing == "index entry":
        await recipients.create(one.email_id, msgspec.json.encode(one))
    elif missing == "nothing":
        await records.write(one, deadline=soon(5))
    await asyncio.gather(*(records.write(one, deadline=soon(5), again=True) for _ in range(3)))
    assert await buckets.ids("g") == [other.email_id, one.email_id]
    assert one.email_id.encode() in (await recipients.get(one.email_id)).value

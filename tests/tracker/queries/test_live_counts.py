# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts in memory are, at every query, the same as after reading every record."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy

from shared.errors import KeyMissing, StoreUnavailable
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats.inbox import Inbox
from tests.stack import nats_proxy as proxies
from tests.stack.nats_proxy import Publication
from tests.stack.waiting import until
from tests.tracker.queries.counting import INDEX, RECORDS, Writers
from tracker.queries import live_counts, stream_follower

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.js import JetStreamContext

    from shared.contract import GetEmailEngagementAnalyticsResponse
    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tracker.queries.live_counts import LiveCounts

    End = Callable[[Publication, Connection], Awaitable[None]]

STEPS = 40
CREATE = "$JS.API.CONSUMER.CREATE"


@pytest.mark.parametrize("seed", range(2))
async def test_each_answer_is_the_same_as_after_reading_every_record(
    counts: LiveCounts, connection: Connection, proxy: NatsProxy, seed: int
) -> None:
    writers = Writers(connection.client.jetstream(), seed)
    for group_id in writers.groups:
        await writers.send(group_id)
    for _ in range(STEPS):
        for _ in range(writers.chance.randrange(4)):
            await writers.write()
        if writers.chance.random() < 0.05:
            proxy.drop_link()
        group_id = writers.chance.choice(list(writers.groups))
        assert await answer(counts, group_id) == await writers.recounted(group_id)


async def answer(counts: LiveCounts, group_id: str) -> GetEmailEngagementAnalyticsResponse:
    """Repeat the query until the connection is back."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await counts.count(group_id)
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def test_the_second_query_costs_two_requests_at_any_size(
    counts: LiveCounts, writers: Writers, proxy: NatsProxy
) -> None:
    for _ in range(30):
        await writers.send("g")
    first = await counts.count("g")
    before = len(proxy.published)
    assert await counts.count("g") == first
    assert proxy.published[before:] == [f"$JS.API.STREAM.INFO.KV_{RECORDS}", f"$JS.API.STREAM.INFO.KV_{INDEX}"]
    assert (counts.misses, counts.hits) == (1, 1)


async def test_a_group_is_missing_until_an_email_is_sent_under_it(counts: LiveCounts, writers: Writers) -> None:
    for _ in range(2):
        with pytest.raises(KeyMissing):
            await counts.count("g")
    await writers.send("g")
    assert (await counts.count("g")).total_sent == 1


async def test_a_group_whose_index_is_deleted_is_missing(
    counts: LiveCounts, writers: Writers, connection: Connection
) -> None:
    await writers.send("g")
    assert (await counts.count("g")).total_sent == 1
    await (await connection.client.jetstream().key_value(INDEX)).delete("g")
    for _ in range(2):
        with pytest.raises(KeyMissing):
            await counts.count("g")
    writers.groups["g"] = [[]]
    await writers.send("g")
    assert await counts.count("g") == await writers.recounted("g")


async def test_recreated_buckets_are_counted_again(
    counts: LiveCounts, writers: Writers, connection: Connection
) -> None:
    for _ in range(3):
        await writers.send("g")
    assert (await counts.count("g")).total_sent == 3
    for name in (RECORDS, INDEX):
        await connection.client.jetstream().delete_key_value(name)
    await create_missing(connection, [RECORDS, INDEX])
    writers.groups["g"] = [[]]
    await writers.send("g")
    assert await answer(counts, "g") == await writers.recounted("g")


async def counted_again(counts: LiveCounts, writers: Writers) -> None:
    """Compare with the plain way."""
    assert await counts.count("g") == await writers.recounted("g")


@pytest.mark.parametrize("leave", ["purge", "purge one", "keep", "limit", "expire"])
@pytest.mark.parametrize("others", [0, 3])
async def test_a_record_that_leaves_its_bucket_without_a_write_is_no_longer_counted(
    counts: LiveCounts, writers: Writers, connection: Connection, leave: str, others: int
) -> None:
    jetstream = connection.client.jetstream()
    for _ in range(3):
        await writers.send("g")
        await writers.deliver("g")
    first = await counts.count("g")
    assert (first.total_sent, first.delivered) == (3, 1)
    await let_leave(jetstream, RECORDS, writers.groups["g"][0][0], leave)
    for _ in range(others):
        await writers.send("other group")
    assert (await counts.count("g")).total_sent == 3
    await counted_again(counts, writers)
    assert (await counts.count("g")).delivered == (0 if leave != "keep" else 1)


@pytest.mark.parametrize("leave", ["purge", "purge one", "limit", "expire"])
async def test_a_group_whose_index_leaves_its_bucket_without_a_write_is_missing(
    counts: LiveCounts, writers: Writers, connection: Connection, leave: str
) -> None:
    await writers.send("g")
    assert (await counts.count("g")).total_sent == 1
    await let_leave(connection.client.jetstream(), INDEX, "g", leave)
    if leave == "limit":
        await writers.send("other group")
    for _ in range(2):
        with pytest.raises(KeyMissing):
            await counts.count("g")


async def let_leave(jetstream: JetStreamContext, bucket: str, key: str, how: str) -> None:
    """Remove a key, and perhaps others, without a write."""
    stream, subject = f"KV_{bucket}", f"$KV.{bucket}.{key}"
    config = (await jetstream.stream_info(stream)).config
    match how:
        case "purge":
            await jetstream.purge_stream(stream)
        case "purge one":
            await jetstream.purge_stream(stream, subject=subject)
        case "keep":
            await jetstream.purge_stream(stream, keep=1)
        case "limit":
            config.discard, config.max_msgs = DiscardPolicy.OLD, 1
            await jetstream.update_stream(config)
            await jetstream.publish(f"$KV.{bucket}.later", b"{}")
        case "expire":
            config.max_age, config.duplicate_window = 0.2, 0.1
            await jetstream.update_stream(config)
            await until(lambda: jetstream.stream_info(stream), lambda info: not info.state.messages)


async def test_writes_of_the_service_cause_no_count_from_the_records(
    counts: LiveCounts, followed: Connection, writers: Writers, proxy: NatsProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Inbox(followed) as inbox:
        index = Bucket(inbox, followed, INDEX)
        await writers.send("g")
        await counts.count("g")
        before = len(proxy.published)

        async def append(number: int) -> None:
            value = json.dumps([str(number)]).encode()
            revision = await index.create(f"other-{number}", value)
            for _ in range(20):
                revision = await index.update(f"other-{number}", value, revision)

        async def count() -> None:
            for _ in range(50):
                await counts.count("g")

        await asyncio.gather(*map(append, range(10)), count())
        await counts.count("g")
    assert not [line.message for line in caplog.records]
    assert not [subject for subject in proxy.published[before:] if "CONSUMER" in subject]


REFUSALS: dict[str, Callable[[NatsProxy], None]] = {
    "10026": lambda proxy: proxy.answer(CREATE, 9, proxies.js_error(400, 10026, "maximum consumers limit reached")),
    "10002": lambda proxy: proxy.answer(CREATE, 9, proxies.js_error(429, 10002, "resource limits exceeded")),
    "no responders": lambda proxy: proxy.answer(CREATE, 9, proxies.no_responders()),
    "no answer": lambda proxy: proxy.lose_request(CREATE, 9),
}


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS)
async def test_without_a_consumer_every_query_reads_the_records_and_one_line_is_logged(
    counts: LiveCounts,
    writers: Writers,
    proxy: NatsProxy,
    refuse: Callable[[NatsProxy], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    refuse(proxy)
    for _ in range(3):
        await writers.send("g")
        await counted_again(counts, writers)
    assert sum(subject.startswith(CREATE) for subject in proxy.published) == 1
    assert [line.message for line in caplog.records if line.levelname == "WARNING"] == ["analytics.not_followed"]
    assert len(counts) == 0


async def test_after_a_refusal_the_streams_are_followed_again_later(
    counts: LiveCounts,
    writers: Writers,
    proxy: NatsProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(live_counts, "REFUSED_SECONDS", 0.0)
    proxy.answer(CREATE, 4, proxies.js_error(400, 10026, "maximum consumers limit reached"))
    await writers.send("g")
    for kept in (0, 0, 1):
        await counted_again(counts, writers)
        assert len(counts) == kept
    assert [line.message for line in caplog.records if "followed" in line.message] == [
        "analytics.not_followed",
        "analytics.followed",
    ]


async def test_a_stream_whose_only_consumer_is_taken_is_read(
    counts: LiveCounts, writers: Writers, connection: Connection
) -> None:
    jetstream = connection.client.jetstream()
    for stream in (f"KV_{RECORDS}", f"KV_{INDEX}"):
        config = (await jetstream.stream_info(stream)).config
        config.max_consumers = 1
        await jetstream.delete_stream(stream)
        await jetstream.add_stream(config)
        await jetstream.add_consumer(stream, ConsumerConfig(durable_name="backup", ack_policy=AckPolicy.EXPLICIT))
    for _ in range(3):
        await writers.send("g")
        await counted_again(counts, writers)


async def test_streams_that_are_lost_again_and_again_are_read(
    counts: LiveCounts, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_follower, "SILENCE_SECONDS", -1.0)
    for _ in range(2):
        await writers.send("g")
        await counted_again(counts, writers)


async def goes_through(request: Publication, connection: Connection) -> None:
    """Let the server answer a request that was held."""
    await connection.client.publish(request.subject, request.payload, request.reply)


async def fails(request: Publication, connection: Connection) -> None:
    """Answer that the subject has no server."""
    await connection.client.publish(request.reply, b"", headers={"Status": "503"})


@pytest.mark.parametrize("early_read", [(INDEX, goes_through), (RECORDS, fails)])
async def test_a_query_across_a_gap_does_not_evict_the_counts_after_the_gap(
    counts: LiveCounts, writers: Writers, connection: Connection, proxy: NatsProxy, early_read: tuple[str, End]
) -> None:
    bucket, ends = early_read
    for group_id in writers.groups:
        await writers.send(group_id)
    held: asyncio.Queue[Publication] = asyncio.Queue()

    def hold(request: Publication) -> Publication:
        held.put_nowait(request)
        return Publication("nowhere", "", b"")

    proxy.rewrite(f"$JS.API.DIRECT.GET.KV_{bucket}", 1, hold)
    early = asyncio.create_task(counts.count("g"))
    async with asyncio.timeout(20):
        request = await held.get()
    await make_gap(connection)
    await counts.count("other group")  # notices the gap
    await ends(request, connection)
    assert await early == await counts.count("g")
    await writers.deliver("g")
    assert (await counts.count("g")).delivered == 1


async def make_gap(connection: Connection) -> None:
    """Deliver a message with sequence 5 where 1 is expected."""
    [consumer] = await connection.client.jetstream().consumers_info(f"KV_{RECORDS}")
    assert consumer.config.deliver_subject
    await connection.client.publish(consumer.config.deliver_subject, b"", reply="ack.7.5.0.0")
    await connection.client.flush()


async def test_without_a_query_for_a_while_no_stream_is_followed(
    counts: LiveCounts, writers: Writers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_counts, "IDLE_SECONDS", 0.1)
    await writers.send("g")
    await counts.count("g")
    jetstream = connection.client.jetstream()
    assert len(await jetstream.consumers_info(f"KV_{RECORDS}")) == 1
    async with asyncio.timeout(20):
        while len(counts):
            await asyncio.sleep(0.02)
    await writers.send("g")
    assert await counts.count("g") == await writers.recounted("g")

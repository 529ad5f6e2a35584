# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts in memory are, at every query, the same as after reading every record."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy
from nats.js.errors import KeyNotFoundError

from shared import contract, group_index
from shared.contract import GetEmailEngagementAnalyticsResponse
from shared.errors import KeyMissing, StoreUnavailable
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_proxy as proxies
from tests.stack.nats_proxy import Publication
from tests.stack.waiting import until
from tracker.queries import live_counts, stream_follower
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

    End = Callable[[Publication, Connection], Awaitable[None]]

STEPS = 40
CREATE = "$JS.API.CONSUMER.CREATE"
RECORDS, INDEX = contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[NatsProxy]:
    """A proxy between the tracker and the server."""
    async with proxies.running(nats.url) as proxy:
        yield proxy


@pytest.fixture
async def followed(proxy: NatsProxy) -> AsyncIterator[Connection]:
    """The tracker's connection, through the proxy."""
    async with nats_connection.opened(ProcessSettings(nats_url=proxy.url), "tracker") as connection:
        await create_missing(connection, [RECORDS, INDEX])
        yield connection


@pytest.fixture
async def counts(followed: Connection) -> AsyncIterator[LiveCounts]:
    """The counts under test."""
    async with Inbox(followed) as inbox:
        recipients, index = Bucket(inbox, followed, RECORDS), Bucket(inbox, followed, INDEX)
        counts = LiveCounts(GroupReader(recipients, index), recipients, index, partial(StreamFollower, followed, inbox))
        yield counts
        await counts.aclose()


class Writers:
    """Relays and trackers that write to both buckets past the proxy, with nats-py's own KV client."""

    def __init__(self, jetstream: JetStreamContext, seed: int) -> None:
        self._jetstream = jetstream
        self.chance = random.Random(seed)  # noqa: S311 - the same writes each time
        self.groups: dict[str, list[list[str]]] = {"g": [[]], "other group": [[]]}

    async def write(self) -> None:
        """Make one write of any kind."""
        group_id = self.chance.choice(list(self.groups))
        segments = self.groups[group_id]
        known = [email_id for ids in segments for email_id in ids]
        what = self.chance.choice(["send", "send", "send", "update", "update", "delete", "corrupt", "roll over"])
        if what == "send" or not known:
            await self.send(group_id)
        elif what == "update":
            await self._put(self.chance.choice(known), self._happened())
        elif what == "delete":
            await (await self._jetstream.key_value(RECORDS)).delete(self.chance.choice(known))
        elif what == "corrupt":
            await (await self._jetstream.key_value(RECORDS)).put(self.chance.choice(known), b"{")
        elif segments[-1]:
            segments.append([])

    async def send(self, group_id: str) -> None:
        """Write a record and its id in the index."""
        email_id = str(UUID(int=self.chance.getrandbits(128)))
        await self._put(email_id, {"delivered": False, "opened": False, "open_count": 0, "failed": False})
        segments = self.groups[group_id]
        segments[-1].append(email_id)
        key = group_index.segment_key(group_index.key_of(group_id), len(segments) - 1)
        index, value = await self._jetstream.key_value(INDEX), json.dumps(segments[-1]).encode()
        if segments[-1] == [email_id]:
            await index.put(key, value)
        else:
            await index.update(key, value, (await index.get(key)).revision)

    async def deliver(self, group_id: str) -> None:
        """Set the first email of a group to delivered."""
        opened = {"opened": False, "open_count": 0}
        await self._put(self.groups[group_id][0][0], {"delivered": True, "failed": False, **opened})

    async def recounted(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Count in the plain way, by reading every record."""
        email_ids = [email_id for ids in self.groups[group_id] for email_id in ids]
        found = [record for email_id in email_ids if (record := await self._read(email_id))]
        return GetEmailEngagementAnalyticsResponse(
            group_id=group_id,
            total_sent=len(email_ids),
            delivered=sum(record["delivered"] for record in found),
            opened=sum(record["open_count"] for record in found),
            unique_opened=sum(record["opened"] for record in found),
            failed=sum(record["failed"] for record in found),
        )

    def _happened(self) -> dict[str, object]:
        opens = self.chance.randrange(3)
        yes = partial(self.chance.choice, [True, False])
        return {"delivered": yes(), "opened": opens > 0, "open_count": opens, "failed": yes()}

    async def _put(self, email_id: str, fields: dict[str, object]) -> None:
        ids = {"email_id": email_id, "group_id": "g", "to": "a@b.example", "subject": "s"}
        value = json.dumps({**ids, "sent_at": "2026-01-02T03:04:05Z", **fields}).encode()
        await (await self._jetstream.key_value(RECORDS)).put(email_id, value)

    async def _read(self, email_id: str) -> dict[str, Any] | None:
        try:
            entry = await (await self._jetstream.key_value(RECORDS)).get(email_id)
            record: dict[str, Any] = json.loads(entry.value or b"")
        except (KeyNotFoundError, ValueError):
            return None
        return record


@pytest.fixture
def writers(connection: Connection) -> Writers:
    """Writers that do not use the proxy."""
    return Writers(connection.client.jetstream(), seed=0)


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
    async with asyncio.timeout(10):
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
    async with asyncio.timeout(5):
        request = await held.get()
    await make_gap(connection)
    for group_id in ("other group", "g"):  # the first query notices the gap
        await counts.count(group_id)
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


async def test_the_memory_is_limited_by_emails_and_by_time(
    counts: LiveCounts, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group_id in ("g", "other group"):
        for _ in range(4):
            await writers.send(group_id)
    await counts.count("g")
    await counts.count("other group")
    assert len(counts) == 8
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 4)
    await counts.count("other group")
    assert len(counts) == 4
    await writers.send("g")
    assert await counts.count("g") == await writers.recounted("g")
    assert len(counts) == 4
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 100)
    monkeypatch.setattr(live_counts, "IDLE_SECONDS", 0.0)
    await counts.count("g")
    assert len(counts) == 5


async def test_a_group_over_the_limit_is_not_kept_in_memory(
    counts: LiveCounts, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_counts, "MAX_EMAILS", 2)
    for kept in (1, 2, 0, 0):
        await writers.send("g")
        assert await counts.count("g") == await writers.recounted("g")
        assert len(counts) == kept


async def test_without_a_query_for_a_while_no_stream_is_followed(
    counts: LiveCounts, writers: Writers, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_counts, "IDLE_SECONDS", 0.1)
    await writers.send("g")
    await counts.count("g")
    jetstream = connection.client.jetstream()
    assert len(await jetstream.consumers_info(f"KV_{RECORDS}")) == 1
    async with asyncio.timeout(5):
        while len(counts):
            await asyncio.sleep(0.02)
    await writers.send("g")
    assert await counts.count("g") == await writers.recounted("g")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reading all values of a bucket, page by page: each key comes once, and an incomplete result is an error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shared.errors import StoreUnavailable
from shared.kv import scan as bucket_scan
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan, Stored
from shared.nats.inbox import Inbox
from tests.stack.nats_proxy import Answer
from tests.stack.nats_rules import Planned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.js.kv import KeyValue

    from shared.nats.connection import Connection
    from tests.stack.nats_frames import Delivery, Publication
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three values a page, and a short wait for those that are written meanwhile."""
    monkeypatch.setattr(bucket_scan, "PAGE", 3)
    monkeypatch.setattr(bucket_scan, "WAIT_SECONDS", 0.3)


class Unaware:
    """A server whose consumers do not know of any message: it refuses pulls that do not wait."""

    def decide(self, publication: Publication) -> Sequence[Planned]:
        """Answer them in the place of the server."""
        waits = "MSG.NEXT" not in publication.subject or json.loads(publication.payload).get("expires")
        return [Planned(publication if waits else Answer(headers=b"NATS/1.0 404 No Messages\r\n\r\n"))]

    def deliver(self, delivery: Delivery) -> Sequence[Planned]:
        """Forward it."""
        return [Planned(delivery)]


async def scan(connection: Connection, name: str = "b") -> list[tuple[str, bytes]]:
    async with Inbox(connection) as inbox, BucketScan(connection, inbox, Bucket(inbox, connection, name)) as opened:
        pages = [page async for page in opened.pages()]
    assert all(len(page) <= 3 for page in pages)
    return [(stored.key, stored.value) for page in pages for stored in page]


async def test_each_key_comes_once_with_its_last_value_in_the_order_of_the_writes(
    kv: KeyValue, nats_connection: Connection
) -> None:
    assert await scan(nats_connection) == []
    for key in "abcdefgh":
        await kv.put(key, b"1")
    await kv.put("b", b"2")
    await kv.delete("c")
    await kv.purge("d")
    expected = [("a", b"1"), ("e", b"1"), ("f", b"1"), ("g", b"1"), ("h", b"1"), ("b", b"2")]
    assert await scan(nats_connection) == expected


async def test_of_a_bucket_with_history_only_the_last_values_come(
    nats_connection: Connection,
) -> None:
    old = await nats_connection.jetstream().create_key_value(bucket="old", history=5)
    for value in (b"1", b"2"):
        await old.put("a", value)
        await old.put("b", value)
    assert await scan(nats_connection, "old") == [("a", b"2"), ("b", b"2")]


async def test_keys_that_are_deleted_or_written_meanwhile_do_not_break_or_repeat_a_page(
    kv: KeyValue, nats_connection: Connection
) -> None:
    for key in "abcdefgh":
        await kv.put(key, b"1")
    async with (
        Inbox(nats_connection) as inbox,
        BucketScan(nats_connection, inbox, Bucket(inbox, nats_connection, "b")) as opened,
    ):
        pages = opened.pages()
        found = [stored.key for stored in await anext(pages)]
        for key in "defg":
            await kv.delete(key)
        await kv.put("i", b"1")
        found += [stored.key async for page in pages for stored in page]
    assert found[:3] == ["a", "b", "c"]
    assert sorted(found[3:]) in (["h"], ["h", "i"])


async def test_keys_that_are_purged_meanwhile_do_not_hide_others_where_old_values_are_kept(
    nats_connection: Connection,
) -> None:
    old = await nats_connection.jetstream().create_key_value(bucket="old", history=5)
    for key in "abcdefgh":
        await old.put(key, b"1")
    async with (
        Inbox(nats_connection) as inbox,
        BucketScan(nats_connection, inbox, Bucket(inbox, nats_connection, "old")) as opened,
    ):
        pages = opened.pages()
        found = [stored.key for stored in await anext(pages)]
        for key in "dg":
            await old.purge(key)
        found += [stored.key async for page in pages for stored in page]
    assert found == list("abcefh")


async def test_deletion_markers_come_if_asked_for_and_with_their_revisions(
    kv: KeyValue, nats_connection: Connection
) -> None:
    for key in "ab":
        await kv.put(key, b"1")
    await kv.delete("a")
    async with (
        Inbox(nats_connection) as inbox,
        BucketScan(nats_connection, inbox, Bucket(inbox, nats_connection, "b"), deleted=True) as opened,
    ):
        found = [stored async for page in opened.pages() for stored in page]
    assert opened.total == 2
    assert found == [Stored("b", b"1", 2), Stored("a", b"", 3, is_deleted=True)]


@pytest.mark.parametrize("keys", ["ab", "abc", "abcdefg"])
async def test_what_is_written_while_pages_are_used_comes_at_the_end_if_asked_for(
    kv: KeyValue, nats_connection: Connection, keys: str
) -> None:
    for key in keys:
        await kv.put(key, b"1")
    async with (
        Inbox(nats_connection) as inbox,
        BucketScan(nats_connection, inbox, Bucket(inbox, nats_connection, "b"), page=2, deleted=True) as opened,
    ):
        deleted = []
        async for page in opened.pages(written_meanwhile=True):
            for stored in page:
                if stored.is_deleted:
                    deleted.append(stored.key)
                    await opened.bucket.purge(stored.key, stored.revision)
                else:
                    await opened.bucket.delete(stored.key, stored.revision)
        assert deleted == list(keys)
        assert (await opened.bucket.info()).state.messages == 0


async def test_what_is_written_last_comes_though_the_consumer_is_not_aware_of_it(
    kv: KeyValue, nats_connection: Connection, nats_proxy: NatsProxy
) -> None:
    for key in "abc":
        await kv.put(key, b"1")
    async with (
        Inbox(nats_connection) as inbox,
        BucketScan(nats_connection, inbox, Bucket(inbox, nats_connection, "b")) as opened,
    ):
        pages = opened.pages(written_meanwhile=True)
        await anext(pages)
        nats_proxy.decides = Unaware()
        await kv.put("d", b"1")
        assert [stored.key async for page in pages for stored in page] == ["d"]


async def test_a_bucket_that_does_not_exist_raises_unavailable(nats_connection: Connection) -> None:
    with pytest.raises(StoreUnavailable, match="stream not found"):
        await scan(nats_connection, "none")


async def test_a_lost_connection_ends_the_reading_with_an_error(
    kv: KeyValue, nats_server: NatsServer, nats_connection: Connection
) -> None:
    for key in "abcdefgh":
        await kv.put(key, b"1")
    async with (
        Inbox(nats_connection) as inbox,
        BucketScan(nats_connection, inbox, Bucket(inbox, nats_connection, "b")) as opened,
    ):
        pages = opened.pages()
        await anext(pages)
        await nats_server.kill()
        with pytest.raises(StoreUnavailable):
            await anext(pages)

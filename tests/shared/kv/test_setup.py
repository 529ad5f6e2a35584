# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Buckets are waited for; missing ones are logged, and created on request; existing ones are not changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from shared.errors import BucketMissing, BucketUnfit, NotPermitted, StoreUnavailable
from shared.kv import setup
from shared.kv.bucket import Bucket
from shared.kv.setup import JetStreamSilent, create_missing, report_unusable
from shared.nats.inbox import Inbox
from tests.shared.connections import as_user, connected, with_inbox
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import Answer, NatsProxy, Publication
    from tests.stack.nats_server import NatsServer


async def test_missing_buckets_are_created_and_existing_ones_are_not_changed(
    nats_connection: Connection, bucket: Bucket
) -> None:
    await bucket.create("k", b"1")
    await asyncio.gather(*[create_missing(nats_connection, ["b", "new"]) for _ in range(3)])
    assert (await bucket.get("k")).value == b"1"
    async with Inbox(nats_connection) as inbox:
        config = (await Bucket(inbox, nats_connection, "new").info()).config
    assert config.allow_direct
    assert config.num_replicas == 1


@pytest.mark.parametrize("refused", ["$JS.API.STREAM.INFO", "$JS.API.STREAM.CREATE"])
async def test_a_bucket_that_cannot_be_created_raises_unavailable_with_its_name(
    nats_connection: Connection, nats_proxy: NatsProxy, refused: str
) -> None:
    nats_proxy.answer(refused, 1, proxies.js_error(500, 10047, "insufficient storage resources available"))
    with pytest.raises(StoreUnavailable, match="new"):
        await create_missing(nats_connection, ["new"])


async def test_creating_buckets_in_an_account_without_jetstream_raises_unavailable() -> None:
    users = "accounts { PLAIN: { users: [ {user: u, password: p} ] } }"
    async with (
        servers.running(users) as server,
        connected(as_user(server.url, "u:p")) as connection,
    ):
        with pytest.raises(JetStreamSilent, match=r"^bucket b: JetStream not enabled for account$") as raised:
            await create_missing(connection, ["b"])
    assert "enable JetStream" in raised.value.advice


async def test_creating_buckets_on_a_server_without_jetstream_says_so(
    nats_connection: Connection, nats_proxy: NatsProxy
) -> None:
    nats_proxy.answer("$JS.API.STREAM.INFO", 1, proxies.no_responders())
    with pytest.raises(JetStreamSilent, match=r"^bucket new: JetStream does not answer$"):
        await create_missing(nats_connection, ["new"])


async def test_a_stream_that_is_no_bucket_is_named_when_buckets_are_created(nats_connection: Connection) -> None:
    await nats_connection.jetstream().add_stream(name="KV_odd", subjects=["$KV.odd.>"])
    with pytest.raises(BucketUnfit, match=r"^bucket odd: .*max_msgs_per_subject"):
        await create_missing(nats_connection, ["odd"])
    await nats_connection.jetstream().delete_stream("KV_odd")


NOT_YET = (
    proxies.js_error(503, 10008, "JetStream system temporarily unavailable"),
    proxies.js_error(503, 10039, "JetStream not enabled for account"),
    proxies.js_error(503, 10076, "JetStream not enabled"),
    proxies.no_responders(),
)


@pytest.mark.parametrize("answer", NOT_YET, ids=["10008", "10039", "10076", "no responders"])
async def test_a_jetstream_that_does_not_answer_yet_is_waited_for(
    bucket: Bucket, nats_connection: Connection, nats_proxy: NatsProxy, answer: Callable[[Publication], Answer]
) -> None:
    nats_proxy.answer("$JS.API.STREAM.INFO", 2, answer)
    await setup.require(nats_connection, bucket)
    assert len(nats_proxy.published) == 3


async def test_a_bucket_that_does_not_exist_is_not_waited_for(
    bucket: Bucket, nats_connection: Connection, nats_proxy: NatsProxy
) -> None:
    async with Inbox(nats_connection) as inbox:
        with pytest.raises(BucketMissing, match="absent"):
            await setup.require(nats_connection, bucket, Bucket(inbox, nats_connection, "absent"))
    assert len(nats_proxy.published) == 2


async def test_a_bucket_that_may_not_be_asked_for_is_not_waited_for() -> None:
    user = '{ user: u, password: p, permissions: { publish: "_INBOX.>", subscribe: "_INBOX.>" } }'
    async with (
        servers.running(f"authorization {{ users: [ {user} ] }}") as server,
        connected(as_user(server.url, "u:p")) as connection,
        Inbox(connection) as inbox,
    ):
        with pytest.raises(NotPermitted):
            await setup.require(connection, Bucket(inbox, connection, "b"))


async def test_a_jetstream_that_is_off_counts_as_missing_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "JETSTREAM_PATIENCE_SECONDS", 0.5)
    users = "accounts { PLAIN: { users: [ {user: u, password: p} ] } }"
    async with (
        servers.running(users) as server,
        connected(as_user(server.url, "u:p")) as connection,
        Inbox(connection) as inbox,
    ):
        started = asyncio.get_running_loop().time()
        with pytest.raises(setup.JetStreamSilent, match=r"no answer for 0.5 s: bucket b: .*JetStream") as raised:
            await setup.require(connection, Bucket(inbox, connection, "b"))
        assert asyncio.get_running_loop().time() - started >= 0.5
    assert "enable JetStream" in raised.value.advice


async def test_the_time_without_a_connection_does_not_count(
    bucket: Bucket, nats_server: NatsServer, nats_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "JETSTREAM_PATIENCE_SECONDS", 0.0)
    await nats_server.stop()
    await until(lambda: not nats_connection.connected)
    required = asyncio.create_task(setup.require(nats_connection, bucket))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.shield(required)
    monkeypatch.undo()
    await nats_server.start()
    await required


@pytest.mark.parametrize("change", [{"retention": "interest"}, {"no_ack": True}])
async def test_a_stream_that_loses_the_values_of_a_bucket_is_logged_and_not_used(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    async with with_inbox(nats_server.url) as (connection, inbox):
        await connection.jetstream().add_stream(name="KV_b", subjects=["$KV.b.>"], **change)
        await report_unusable(inbox, connection, ["b"])
        with pytest.raises(BucketUnfit, match="bucket b: does not"):
            await Bucket(inbox, connection, "b").max_value_bytes()
    (line,) = [vars(record) for record in caplog.records if record.message == "bucket.unusable"]
    assert "nats kv add" in line["advice"]


async def test_a_bucket_that_cannot_be_used_is_logged_with_advice(
    bucket: Bucket, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_inbox(nats_server.url) as (connection, inbox):
        await report_unusable(inbox, connection, [bucket.name, "absent"])
    (line,) = [vars(record) for record in caplog.records if record.message == "bucket.unusable"]
    assert (line["bucket"], line["levelname"]) == ("absent", "WARNING")
    assert "create-missing" in line["advice"]

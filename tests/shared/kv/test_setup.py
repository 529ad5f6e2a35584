# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Missing buckets: they are logged at start-up, and created on request; existing ones are not changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shared.errors import StoreUnavailable
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing, report_unusable
from shared.nats.inbox import Inbox
from tests.shared.connections import as_user, connected, with_inbox
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers

if TYPE_CHECKING:
    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
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
        with pytest.raises(StoreUnavailable):
            await create_missing(connection, ["b"])


async def test_a_bucket_that_cannot_be_used_is_logged_with_advice(
    bucket: Bucket, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_inbox(nats_server.url) as (connection, inbox):
        await report_unusable(inbox, connection, [bucket.name, "absent"])
    (line,) = [vars(record) for record in caplog.records if record.message == "bucket.unusable"]
    assert (line["bucket"], line["levelname"]) == ("absent", "WARNING")
    assert "create-buckets" in line["advice"]

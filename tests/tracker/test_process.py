# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The parts of the tracker together, on real servers, in the test's own process."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import shared.nats.inbox
from shared.lifecycle import Life
from shared.nats import connection as nats_connection
from tests.stack import nats_proxy
from tests.stack.waiting import until
from tests.tracker.events.polling import of_email
from tests.tracker.examples import EMAIL, record
from tracker import process
from tracker.events import record_updater, records
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from nats.aio.msg import Msg

    from shared.kv.bucket import Bucket
    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint


@asynccontextmanager
async def tracking(url: str, sqs: SqsEndpoint) -> AsyncIterator[None]:
    """A tracker on these servers, stopped in the regular way."""
    config = TrackerSettings(nats_url=url, ses_eventing_enabled=True, ses_engagement_sqs_queue_url=sqs.queue_url)
    serve = process.prepare(config, dict(os.environ), create_missing=True)
    life = Life()
    async with nats_connection.opened(config, "tracker") as connection:
        serving = asyncio.ensure_future(serve(life, connection))
        try:
            yield
        finally:
            life.stopping.set()
            await serving


async def test_an_event_is_published_although_its_message_is_back_in_the_queue_when_the_answer_to_its_write_is_missed(
    nats: NatsServer, recipients: Bucket, connection: Connection, sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.nats.inbox, "TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(record_updater, "WATCH_SECONDS", 0.1)
    await recipients.create(EMAIL, records.encode(record()))
    pushed: list[Msg] = []
    await connection.subscribe("lfx.email-service.*", pushed.append)
    await connection.flush()
    async with nats_proxy.running(nats.url) as proxy, tracking(proxy.url, sqs):
        proxy.lose_reply("$KV.email-recipients.", 1)
        sqs.send(json.dumps({"Records": [{"messageId": "1", "body": of_email()}, {"messageId": "2", "body": "{}"}]}))
        await until(lambda: pushed)
        assert (sqs.visible, sqs.in_flight, sqs.deleted) == (0, 1, []), "it is invisible for a while"

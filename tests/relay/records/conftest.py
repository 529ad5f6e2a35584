# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Fixtures of the tests of `relay/records`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import nats
import pytest
from nats.js.api import KeyValueConfig

from relay.records.idempotency_store import IdempotencyStore
from shared.kv.bucket import Bucket
from shared.nats import inbox as inboxes
from tests.relay.records.keys import LONGEST_REQUEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox
    from tests.stack.nats_server import NatsServer


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lost reply only for a short time."""
    monkeypatch.setattr(inboxes, "TIMEOUT_SECONDS", 0.8)


@pytest.fixture
async def jetstream(nats_server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """JetStream, seen past the proxy."""
    async with await nats.connect(nats_server.url) as client:
        yield client.jetstream()


@pytest.fixture
async def bucket(jetstream: JetStreamContext, inbox: Inbox, nats_connection: Connection) -> AsyncIterator[Bucket]:
    """A bucket of this test's own, through the proxy."""
    name = f"idempotency-{uuid4().hex}"
    await jetstream.create_key_value(KeyValueConfig(name, direct=True))
    yield Bucket(inbox, nats_connection, name)
    await jetstream.delete_key_value(name)


@pytest.fixture
async def store(bucket: Bucket) -> AsyncIterator[IdempotencyStore]:
    """The store of a relay."""
    async with IdempotencyStore(bucket, LONGEST_REQUEST) as opened:
        yield opened

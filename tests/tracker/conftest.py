# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The real servers that the tracker's tests run against, and the connection and buckets on them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import botocore.session
import pytest
from botocore.loaders import create_loader

from shared import contract
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection as nats_connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_server, sqs_endpoint
from tracker.events import receiver
from tracker.events.push_events import PushEvents
from tracker.events.record_updater import RecordUpdater

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.nats.connection import Connection
    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint

_one_loader = functools.cache(create_loader)


@pytest.fixture
async def nats() -> AsyncIterator[NatsServer]:
    """A nats-server of the test's own."""
    async with nats_server.running() as server:
        yield server


@pytest.fixture
async def connection(nats: NatsServer) -> AsyncIterator[Connection]:
    """A connection to it, opened in the same way as in the process."""
    async with nats_connection.opened(ProcessSettings(nats_url=nats.url), "test") as connection:
        yield connection


@pytest.fixture
async def inbox(connection: Connection) -> AsyncIterator[Inbox]:
    """The inbox of the connection."""
    async with Inbox(connection) as inbox:
        yield inbox


@pytest.fixture
async def recipients(connection: Connection, inbox: Inbox) -> Bucket:
    """The bucket of the records, on the server."""
    await create_missing(connection, [contract.EMAIL_RECIPIENTS_BUCKET])
    return Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)


@pytest.fixture
def updater(recipients: Bucket, connection: Connection) -> RecordUpdater:
    """An updater of the bucket on the server."""
    return RecordUpdater(recipients, PushEvents(connection))


@pytest.fixture
async def index(connection: Connection, inbox: Inbox) -> Bucket:
    """The bucket of the groups, on the server."""
    await create_missing(connection, [contract.EMAIL_GROUP_INDEX_BUCKET])
    return Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET)


@pytest.fixture
async def sqs(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqsEndpoint]:
    """A queue whose messages stay invisible for long after a receive; boto3 has credentials."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    # for each client botocore would look for its own files and read 3 MB of JSON twice
    monkeypatch.setattr(botocore.session, "create_loader", _one_loader)
    async with sqs_endpoint.running(visibility_timeout=300) as endpoint:
        yield endpoint


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a receiver that stops abandon its last long polls at once."""
    monkeypatch.setattr(receiver, "LAST_POLL_SECONDS", 0.05)

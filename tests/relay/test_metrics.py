# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the relay tell what its rooms have counted. Names and labels are held to the docs elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import errors, metrics, settings
from relay.records.idempotency_store import Claims, NoClaims
from relay.records.index_writer import IndexWriter
from relay.records.record_writer import NoRecords, RecordWriter
from relay.send_email_handler import Options, SendEmailHandler
from relay.settings import RelaySettings
from relay.smtp.connection import Envelope
from relay.smtp.delivery import Delivery, Disabled
from relay.smtp.pool import Limits, Pool
from shared import contract
from shared.kv.bucket import Bucket
from shared.nats.client import ReconnectingClient
from shared.nats.connection import Connection
from shared.nats.endpoint import Endpoint
from shared.nats.inbox import Inbox

if TYPE_CHECKING:
    from relay.errors import DeliveryError

OPTIONS = Options(settings.policy(RelaySettings()), "", send_retry_seconds=8, longest_request=timedelta(seconds=48))
ENVELOPE = Envelope("noreply@lfx.linuxfoundation.org", "ada@example.com")
THROTTLED = "Throttling failure: Maximum sending rate exceeded."


class Ending:
    """A connection on which each mail ends in the same way."""

    is_usable = True
    transactions = 0

    def __init__(self, error: DeliveryError | None) -> None:
        self._error = error

    async def send(self, _envelope: Envelope, _message: bytes) -> None:
        """Send nothing."""
        if self._error:
            raise self._error

    async def quit(self) -> None:
        """Say nothing."""


@pytest.fixture
async def nobody() -> Connection:
    """A connection to NATS that nobody has opened."""
    return Connection(ReconnectingClient())


@pytest.fixture
async def bucket(nobody: Connection) -> Bucket:
    """A bucket on it."""
    return Bucket(Inbox(nobody), nobody, contract.EMAIL_RECIPIENTS_BUCKET)


async def test_what_the_endpoint_answered_counts_beside_what_the_handler_did(nobody: Connection) -> None:
    handler = SendEmailHandler(Disabled(), NoRecords(), NoClaims(), OPTIONS)
    endpoint = Endpoint(nobody, contract.SEND_EMAIL_SUBJECT, handler, max_in_flight=1)
    await handler(b"no JSON")
    endpoint.busy, endpoint.failed = 3, 2
    said = read(metrics.requests(endpoint, handler))
    assert said["email_relay_requests_total", contract.INVALID_REQUEST_PAYLOAD] == 1
    assert said["email_relay_requests_total", contract.SERVICE_BUSY] == 3
    assert said["email_relay_requests_total", contract.INTERNAL_ERROR] == 2


@pytest.mark.parametrize(
    ("error", "outcome", "throttles", "bars"),
    [
        (None, ("2xx", "accepted"), 0, 0),
        (errors.Deferred(THROTTLED, 454), ("4xx", "deferred"), 1, 0),
        (errors.Deferred("no connection"), ("none", "deferred"), 0, 0),
        (errors.Rejected("no such user", 550), ("5xx", "rejected"), 0, 0),
        (errors.Barred("Daily message quota exceeded", 454), ("4xx", "barred"), 0, 1),
        (errors.Uncertain("no answer after the final dot"), ("none", "uncertain"), 0, 0),
    ],
)
async def test_a_transaction_counts_by_its_outcome(
    error: DeliveryError | None, outcome: tuple[str, str], throttles: int, bars: int, bucket: Bucket
) -> None:
    async def connect() -> Any:
        return Ending(error)

    async with Pool[Any](connect, Limits(connections=1, messages=9, idle_seconds=9, age_seconds=9)) as pool:
        delivery = Delivery(pool, max_send_rate=0, server=("localhost", 25))
        with nullcontext() if error is None else pytest.raises(type(error)):
            await delivery(ENVELOPE, b"", deadline=asyncio.get_running_loop().time() + 0.01)
        claims, records = Claims(bucket), RecordWriter(bucket, IndexWriter(bucket))
        bucket.conflicts = 4
        said = read(metrics.sending(delivery, pool, records, claims, [bucket]))
    assert said["email_relay_smtp_transactions_total", *outcome] == 1
    assert said["email_relay_smtp_throttles_total",] == throttles
    assert said["email_relay_smtp_bars_total",] == bars
    assert said["email_relay_smtp_connections", "idle"] == 1
    assert said["email_relay_smtp_wait_seconds_count",] == 1
    assert said["email_relay_kv_conflicts_total", bucket.name] == 4


async def test_the_first_uncertain_mail_is_an_increase(bucket: Bucket) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    pool = Pool[Any](lambda: asyncio.sleep(0), Limits(connections=1, messages=1, idle_seconds=1, age_seconds=1))
    delivery = Delivery(pool, max_send_rate=0, server=("localhost", 25))
    writer = RecordWriter(bucket, IndexWriter(bucket))
    said = read(metrics.sending(delivery, pool, writer, Claims(bucket), []))
    assert said["email_relay_smtp_transactions_total", "none", "uncertain"] == 0


def read(text: bytes) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

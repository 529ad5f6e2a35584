# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the relay hold the counts of its modules. Names and labels are compared with the docs elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import errors, metrics
from relay.envelope import Envelope
from relay.records.idempotency_store import DisabledIdempotencyStore, IdempotencyStore
from relay.records.record_writer import DisabledRecordWriter, RecordWriter
from relay.send_email_handler import SendEmailHandler, Steps
from relay.smtp.delivery import Delivery, DisabledDelivery
from relay.smtp.pool import Pool, PoolLimits
from relay.smtp.send_rate import SendRate
from shared import contract
from shared.index_writer import IndexWriter
from shared.kv.bucket import Bucket
from shared.nats.client import ReconnectingClient
from shared.nats.connection import Connection
from shared.nats.endpoint import ByteLimit, Endpoint
from shared.nats.inbox import Inbox
from tests.relay.steps import OPTIONS

if TYPE_CHECKING:
    from relay.errors import DeliveryError

LONGEST_REQUEST = timedelta(seconds=48)
ENVELOPE = Envelope("noreply@lfx.linuxfoundation.org", "ada@example.com")
THROTTLED = "Throttling failure: Maximum sending rate exceeded."


class Ending:
    """A connection on which each email has the same outcome."""

    is_usable = is_proven = True
    transactions = refusals = 0

    def __init__(self, error: DeliveryError | None) -> None:
        self._error = error

    async def send(self, _envelope: Envelope, _message: bytes) -> None:
        """Send nothing."""
        if self._error:
            raise self._error

    async def quit(self) -> None:
        """Do nothing."""


@pytest.fixture
async def unopened() -> Connection:
    """A connection to NATS that is not open."""
    return Connection(ReconnectingClient())


@pytest.fixture
async def bucket(unopened: Connection) -> Bucket:
    """A bucket on it."""
    return Bucket(Inbox(unopened), unopened, contract.EMAIL_RECIPIENTS_BUCKET)


async def test_replies_of_the_endpoint_are_counted_with_those_of_the_handler(unopened: Connection) -> None:
    handler = SendEmailHandler(OPTIONS, Steps(DisabledDelivery(), DisabledRecordWriter(), DisabledIdempotencyStore()))
    endpoint = Endpoint(unopened, contract.SEND_EMAIL_SUBJECT, handler, max_in_flight=1)
    byte_limit = ByteLimit(100)
    await handler(b"no JSON")
    endpoint.busy, endpoint.failed, byte_limit.in_flight = 3, 2, 6
    samples = read(metrics.requests(endpoint, handler, byte_limit))
    assert samples["email_relay_requests_total", contract.INVALID_REQUEST_PAYLOAD] == 1
    assert samples["email_relay_requests_total", contract.SERVICE_BUSY] == 3
    assert samples["email_relay_requests_total", contract.INTERNAL_ERROR] == 2
    assert samples["email_relay_in_flight_bytes",] == 6


@pytest.mark.parametrize(
    ("error", "outcome", "throttles", "bars"),
    [
        (None, ("2xx", "accepted"), 0, 0),
        (errors.Deferred(THROTTLED, 454), ("4xx", "deferred"), 1, 0),
        (errors.Deferred("no connection"), ("none", "deferred"), 0, 0),
        (errors.Rejected("no such user", 550), ("5xx", "rejected"), 0, 0),
        (errors.AccountRefused("Daily message quota exceeded", 454), ("4xx", "barred"), 0, 1),
        (errors.Uncertain("no reply after the final dot"), ("none", "uncertain"), 0, 0),
    ],
)
async def test_a_transaction_counts_by_its_outcome(  # noqa: PLR0913, PLR0917 - a table with four columns
    error: DeliveryError | None,
    outcome: tuple[str, str],
    throttles: int,
    bars: int,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.smtp.delivery._backoff", lambda _: 60)  # so that no second attempt is in time

    async def connect() -> Any:
        return Ending(error)

    async with Pool[Any](connect, PoolLimits(connections=1, messages=9, idle_seconds=9, age_seconds=9)) as pool:
        delivery = Delivery(pool, send_rate=SendRate(), server=("localhost", 25))
        with nullcontext() if error is None else pytest.raises(type(error)):
            await delivery(ENVELOPE, b"", deadline=asyncio.get_running_loop().time() + 5, group="")
        keys, records = IdempotencyStore(bucket, LONGEST_REQUEST), RecordWriter(bucket, IndexWriter(bucket))
        bucket.conflicts = 4
        samples = read(metrics.sending(delivery, pool, records, keys, [bucket]))
    assert samples["email_relay_smtp_transactions_total", *outcome] == 1
    assert samples["email_relay_smtp_throttles_total",] == throttles
    assert samples["email_relay_smtp_bars_total",] == bars
    assert samples["email_relay_smtp_connections", "idle"] == 1
    assert samples["email_relay_smtp_wait_seconds_count",] == 1
    assert samples["email_relay_kv_conflicts_total", bucket.name] == 4


async def test_the_uncertain_series_begins_with_0(bucket: Bucket) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    pool = Pool[Any](lambda: asyncio.sleep(0), PoolLimits(connections=1, messages=1, idle_seconds=1, age_seconds=1))
    delivery = Delivery(pool, send_rate=SendRate(), server=("localhost", 25))
    writer = RecordWriter(bucket, IndexWriter(bucket))
    samples = read(metrics.sending(delivery, pool, writer, IdempotencyStore(bucket, LONGEST_REQUEST), []))
    assert samples["email_relay_smtp_transactions_total", "none", "uncertain"] == 0


def read(text: bytes) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

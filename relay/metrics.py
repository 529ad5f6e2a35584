# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the relay, read from what its rooms have counted. No label holds an address or an id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import contract
from shared.telemetry.exposition import counter, gauge, histogram, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from relay.records.idempotency_store import Claims
    from relay.records.record_writer import RecordWriter
    from relay.send_email_handler import SendEmailHandler
    from relay.smtp.connection import SmtpConnection
    from relay.smtp.delivery import Delivery
    from relay.smtp.pool import Pool
    from shared.kv.bucket import Bucket
    from shared.nats.endpoint import Endpoint


def requests(endpoint: Endpoint, handler: SendEmailHandler) -> bytes:
    """Return the text about requests and replies."""
    return text(_requests(endpoint, handler))


def sending(
    delivery: Delivery,
    pool: Pool[SmtpConnection],
    records: RecordWriter,
    claims: Claims,
    buckets: Sequence[Bucket],
) -> bytes:
    """Return the text about the rooms that exist only with EMAIL_ENABLED=true."""
    return text([*_smtp(delivery, pool), *_records(records, buckets), *_claims(claims)])


def _requests(endpoint: Endpoint, handler: SendEmailHandler) -> Iterator[Metric]:
    results = {(result,): count for result, count in handler.results.items()}
    for result, more in ((contract.SERVICE_BUSY, endpoint.busy), (contract.INTERNAL_ERROR, endpoint.failed)):
        results[result,] = results.get((result,), 0) + more
    yield counter("email_relay_requests", "Requests by result: sent, or the error of the reply.", ("result",), results)
    yield histogram("email_relay_request_seconds", "Time from request to reply.", (), {(): endpoint.seconds})
    yield gauge("email_relay_in_flight_requests", "Requests being served.", (), {(): endpoint.in_flight})


def _smtp(delivery: Delivery, pool: Pool[SmtpConnection]) -> Iterator[Metric]:
    yield counter(
        "email_relay_smtp_transactions",
        "SMTP transactions by outcome and class of the reply code (none: no reply).",
        ("outcome", "code_class"),
        delivery.transactions,
    )
    yield counter("email_relay_smtp_retries", "Attempts after the first.", (), {(): delivery.retries})
    yield counter("email_relay_smtp_throttles", "Replies that ask for a lower rate.", (), {(): delivery.throttles})
    yield counter("email_relay_smtp_bars", "Pauses for an account that cannot send.", (), {(): delivery.bars})
    states = {(state,): count for state, count in pool.state()._asdict().items()}
    yield gauge("email_relay_smtp_connections", "Connections by state; waiting counts sends.", ("state",), states)
    unopened = "Connections that could not be opened."
    yield counter("email_relay_smtp_connections_unopened", unopened, (), {(): pool.unopened})
    yield histogram("email_relay_smtp_wait_seconds", "Time until a connection came free.", (), {(): pool.waits})


def _records(records: RecordWriter, buckets: Sequence[Bucket]) -> Iterator[Metric]:
    yield gauge("email_relay_records_kept", "Records that KV has not taken yet.", (), {(): records.kept})
    yield counter("email_relay_records_stored_late", "Records that KV took later.", (), {(): records.stored_late})
    yield counter("email_relay_records_lost", "Records that were never stored.", (), {(): records.lost})
    conflicts = {(bucket.name,): bucket.conflicts for bucket in buckets}
    yield counter("email_relay_kv_conflicts", "Writes that somebody else was faster than.", ("bucket",), conflicts)


def _claims(claims: Claims) -> Iterator[Metric]:
    help_text = "Idempotency keys whose outcome KV does not know yet."
    yield gauge("email_relay_claims_unsettled", help_text, (), {(): claims.unsettled})

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the relay, read from the counters of its modules. No label holds an address or an id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import contract
from shared.telemetry.exposition import counter, gauge, histogram, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from relay.presence import Presence
    from relay.records.idempotency_store import IdempotencyStore
    from relay.records.record_writer import RecordWriter
    from relay.send_email_handler import SendEmailHandler
    from relay.smtp.connection import Connector, SmtpConnection
    from relay.smtp.delivery import Delivery
    from relay.smtp.pool import Pool
    from shared.kv.bucket import Bucket
    from shared.nats.endpoint import ByteLimit, Endpoint


def requests(endpoint: Endpoint, handler: SendEmailHandler, byte_limit: ByteLimit) -> bytes:
    """Return the text about requests and replies."""
    return text(_requests(endpoint, handler, byte_limit))


def sending(
    delivery: Delivery,
    pool: Pool[SmtpConnection],
    records: RecordWriter,
    idempotency_store: IdempotencyStore,
    buckets: Sequence[Bucket],
) -> bytes:
    """Return the text about delivery and storage, which exist only with EMAIL_ENABLED=true."""
    return text([*_smtp(delivery, pool), *_records(records, buckets), *_idempotency_keys(idempotency_store)])


def server_certificate(connector: Connector) -> bytes:
    """Return the text about the certificate of the SMTP server; without a value until a connection used TLS."""
    expiry = {} if connector.certificate_expiry is None else {(): connector.certificate_expiry}
    explanation = "When the certificate of the SMTP server expires, in seconds since 1970."
    return text([gauge("email_relay_smtp_certificate_expiry_timestamp_seconds", explanation, (), expiry)])


def sharing(presence: Presence) -> bytes:
    """Return the text about the rate that the relays share, which exists only with SES_ACCOUNT_SEND_RATE."""
    share = gauge("email_relay_send_rate_share", "Emails a second that this relay may send.", (), {(): presence.share})
    relays = "Relays that share the send rate, this one included; 0 if it does not hear even itself."
    return text([share, gauge("email_relay_relays", relays, (), {(): presence.relays})])


def _requests(endpoint: Endpoint, handler: SendEmailHandler, byte_limit: ByteLimit) -> Iterator[Metric]:
    results = {(contract.DELIVERY_FAILED,): 0}  # the first one is an increase
    results |= {(result,): count for result, count in handler.results.items()}
    for result, more in ((contract.SERVICE_BUSY, endpoint.busy), (contract.INTERNAL_ERROR, endpoint.failed)):
        results[result,] = results.get((result,), 0) + more
    yield counter(
        "email_relay_requests",
        "Requests by result: sent, filtered, repeated, or the error string of the reply.",
        ("result",),
        results,
    )
    yield histogram("email_relay_request_seconds", "Time from request to reply.", (), {(): endpoint.seconds})
    yield gauge("email_relay_in_flight_requests", "Requests that are not answered yet.", (), {(): endpoint.in_flight})
    yield gauge(
        "email_relay_in_flight_bytes",
        "Bytes of the requests that are not answered yet.",
        (),
        {(): byte_limit.in_flight},
    )


def _smtp(delivery: Delivery, pool: Pool[SmtpConnection]) -> Iterator[Metric]:
    yield counter(
        "email_relay_smtp_transactions",
        "SMTP transactions by outcome and by class of the reply code (none: no reply).",
        ("outcome", "code_class"),
        delivery.transactions,
    )
    yield counter(
        "email_relay_smtp_retries", "Attempts to deliver an email after its first attempt.", (), {(): delivery.retries}
    )
    yield counter("email_relay_smtp_throttles", "SMTP replies that ask for a lower rate.", (), {(): delivery.throttles})
    throttled = "Emails a second that the relay sends at most while the SMTP server throttles; 0: it does not."
    yield gauge("email_relay_smtp_throttled_rate", throttled, (), {(): delivery.send_rate.throttled_rate})
    refused = "Times that sending stopped because the SMTP server refused the account."
    yield counter("email_relay_smtp_bars", refused, (), {(): delivery.circuit_openings})
    states = {(state,): count for state, count in pool.state()._asdict().items()}
    yield gauge(
        "email_relay_smtp_connections",
        "SMTP connections by state; waiting counts the emails that wait for a connection.",
        ("state",),
        states,
    )
    unopened = "SMTP connections that could not be opened."
    yield counter("email_relay_smtp_connections_unopened", unopened, (), {(): pool.unopened})
    yield histogram("email_relay_smtp_wait_seconds", "Time that emails waited for a connection.", (), {(): pool.waits})


def _records(records: RecordWriter, buckets: Sequence[Bucket]) -> Iterator[Metric]:
    yield gauge("email_relay_records_kept", "Records of sent emails that are not stored yet.", (), {(): records.kept})
    yield counter(
        "email_relay_records_stored_late",
        "Records that were stored after their first try had failed.",
        (),
        {(): records.stored_late},
    )
    yield counter("email_relay_records_lost", "Records that were never stored.", (), {(): records.lost})
    conflicts = {(bucket.name,): bucket.conflicts for bucket in buckets}
    yield counter(
        "email_relay_kv_conflicts", "Writes that failed because the value had changed.", ("bucket",), conflicts
    )


def _idempotency_keys(store: IdempotencyStore) -> Iterator[Metric]:
    unsettled = "Idempotency keys whose outcome is not stored yet."
    yield gauge("email_relay_claims_unsettled", unsettled, (), {(): store.unsettled})

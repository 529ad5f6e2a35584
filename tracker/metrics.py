# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the tracker, from the counters of its modules. No label holds an address or an id."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from shared import contract
from shared.telemetry.exposition import counter, gauge, histogram, text
from tracker.events.ses_event import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.core import Metric

    from shared.kv.bucket import Bucket
    from shared.nats.endpoint import ByteLimit, Endpoint
    from tracker.capacity import Capacity
    from tracker.events.rebuilder import Rebuilder
    from tracker.events.receiver import Receiver
    from tracker.events.record_updater import RecordUpdater
    from tracker.events.settlement import Settlement
    from tracker.events.sqs import Queue
    from tracker.events.suppression import Suppressor
    from tracker.queries.live_counts import LiveCounts


class Answering(Protocol):
    """A handler that counts its replies by result: ok, or the error."""

    results: Counter[str]


def queries(
    served: Sequence[tuple[Endpoint, Answering]], byte_limit: ByteLimit, counts: LiveCounts, buckets: Sequence[Bucket]
) -> bytes:
    """Return the metrics of the queries, by the last word of their subject."""
    in_flight = {(): byte_limit.in_flight}
    in_flight_bytes = gauge("email_tracker_in_flight_bytes", "Bytes of the queries in progress.", (), in_flight)
    return text([*_queries(served), in_flight_bytes, *_store(counts, buckets)])


def receives(queue: Queue, receiver: Receiver) -> bytes:
    """Return the metrics of the queue, which is polled only with SES_EVENTING_ENABLED=true."""
    return text(_receives(queue, receiver))


def events(settlement: Settlement, updater: RecordUpdater) -> bytes:
    """Return the metrics of the events and their outcomes."""
    return text(_outcomes(settlement, updater))


def push_events(outcomes: Counter[str]) -> bytes:
    """Return the metric of the push events, by the counter of their publisher."""
    counts = {(outcome,): count for outcome, count in outcomes.items()}
    return text([counter("email_tracker_push_events", "Push events by outcome.", ("outcome",), counts)])


def rebuilds(rebuilder: Rebuilder) -> bytes:
    """Return the metric of the records that were rebuilt, with ENGAGEMENT_REBUILD_RECORDS=true."""
    name, about = "email_tracker_records_rebuilt", "Missing records that were made from an event."
    return text([counter(name, about, (), {(): rebuilder.rebuilt})])


def suppressions(suppressor: Suppressor) -> bytes:
    """Return the metrics of the suppression list, which is written only with SUPPRESSION_ENABLED=true."""
    added = {(reason,): count for reason, count in suppressor.added.items()}
    return text(
        [
            counter(
                "email_tracker_suppressions", "Addresses added to the suppression list, by reason.", ("reason",), added
            )
        ]
    )


def capacity(usages: Capacity) -> bytes:
    """Return the sizes and the limits of buckets and account; a metric is absent until its first answer."""
    return text(_capacity(usages))


def _queries(served: Sequence[tuple[Endpoint, Answering]]) -> Iterator[Metric]:
    results: Counter[tuple[str, str]] = Counter()
    for endpoint, handler in served:
        name = _name(endpoint)
        results.update({(name, result): count for result, count in handler.results.items()})
        results[name, contract.SERVICE_BUSY] += endpoint.busy
        results[name, contract.INTERNAL_ERROR] += endpoint.failed
    labels = ("query", "result")
    yield counter("email_tracker_queries", "Queries by result: ok, or the error of the reply.", labels, results)
    seconds = {(_name(endpoint),): endpoint.seconds for endpoint, _ in served}
    yield histogram("email_tracker_query_seconds", "Time from query to reply.", ("query",), seconds)
    in_flight = {(_name(endpoint),): endpoint.in_flight for endpoint, _ in served}
    yield gauge("email_tracker_in_flight_queries", "Queries in progress.", ("query",), in_flight)


def _name(endpoint: Endpoint) -> str:
    return endpoint.subject.rpartition(".")[2]


def _store(counts: LiveCounts, buckets: Sequence[Bucket]) -> Iterator[Metric]:
    asked = {("hit",): counts.hits, ("miss",): counts.misses}
    yield counter(
        "email_tracker_counts_cache",
        "Queries of groups whose counts were in memory (hit) or not (miss).",
        ("result",),
        asked,
    )
    yield gauge("email_tracker_counts_cached_emails", "Emails whose counts are kept in memory.", (), {(): len(counts)})
    conflicts = {(bucket.name,): bucket.conflicts for bucket in buckets}
    yield counter("email_tracker_kv_conflicts", "Writes that lost against another writer.", ("bucket",), conflicts)


def _capacity(usages: Capacity) -> Iterator[Metric]:
    stored = {(name,): usage.stored for name, usage in usages.buckets.items()}
    yield gauge("email_tracker_bucket_bytes", "Bytes that the bucket stores.", ("bucket",), stored)
    limits = {(name,): usage.limit for name, usage in usages.buckets.items()}
    yield gauge("email_tracker_bucket_max_bytes", "Limit of the bucket, or +Inf.", ("bucket",), limits)
    if account := usages.account:
        yield gauge("email_tracker_account_bytes", "Bytes that the account stores.", (), {(): account.stored})
        yield gauge("email_tracker_account_max_bytes", "Limit of the account, or +Inf.", (), {(): account.limit})


def _receives(queue: Queue, receiver: Receiver) -> Iterator[Metric]:
    results = dict.fromkeys(("messages", "empty", "failed"), 0) | receiver.receives  # the first one is an increase
    receives = {(result,): count for result, count in results.items()}
    yield counter("email_tracker_receives", "Receive calls by result: messages, empty, failed.", ("result",), receives)
    yield histogram(
        "email_tracker_batch_messages", "Messages per receive, without empty ones.", (), {(): receiver.batch_sizes}
    )
    yield histogram("email_tracker_queue_age_seconds", "Age of a message when received.", (), {(): receiver.ages})
    yield counter("email_tracker_deletes_failed", "Messages that could not be deleted.", (), {(): queue.undeleted})


def _outcomes(settlement: Settlement, updater: RecordUpdater) -> Iterator[Metric]:
    labels = ("kind", "outcome")
    known = [(kind, outcome) for kind in KINDS for outcome in ("applied", "unmatched")]  # the first one is an increase
    outcomes = {**dict.fromkeys(known, 0), **updater.outcomes, **settlement.outcomes}
    yield counter("email_tracker_events", "Events by kind and outcome.", labels, outcomes)
    permanent = "Bounces of which SES reports that they are permanent; duplicates do not count."
    yield counter("email_tracker_permanent_bounces", permanent, (), {(): updater.permanent_bounces})
    yield histogram(
        "email_tracker_event_lag_seconds",
        "Time from the timestamp of SES to the write of the record.",
        (),
        {(): updater.lags},
    )
    yield gauge(
        "email_tracker_events_held", "Messages held until KV or their record is there.", (), {(): settlement.held}
    )

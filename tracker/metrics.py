# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the tracker, read from what its rooms have counted. No label holds an address or an id."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from shared import contract
from shared.telemetry.exposition import counter, gauge, histogram, text
from tracker.events.ses_event import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from shared.kv.bucket import Bucket
    from shared.nats.endpoint import Endpoint
    from tracker.events.poller import Poller
    from tracker.events.record_updater import RecordUpdater
    from tracker.events.sqs import Queue
    from tracker.events.suppression import Suppressor
    from tracker.queries.live_counts import LiveCounts


class Answering(Protocol):
    """A handler that counts its replies: ok, or the error."""

    results: Counter[str]


def queries(served: Mapping[str, tuple[Endpoint, Answering]], counts: LiveCounts, buckets: Sequence[Bucket]) -> bytes:
    """Return the text about the queries, `served` by the last word of their subject."""
    return text([*_queries(served), *_store(counts, buckets)])


def receives(queue: Queue, poller: Poller) -> bytes:
    """Return the text about the queue, which is polled only with SES_EVENTING_ENABLED=true."""
    return text(_receives(queue, poller))


def events(poller: Poller, updater: RecordUpdater) -> bytes:
    """Return the text about what became of the events that came."""
    return text(_outcomes(poller, updater))


def suppressions(suppressor: Suppressor) -> bytes:
    """Return the text about the list, which is written only with SUPPRESSION_ENABLED=true."""
    added = {(reason,): count for reason, count in suppressor.added.items()}
    return text([counter("email_tracker_suppressions", "Addresses added to the list, by reason.", ("reason",), added)])


def _queries(served: Mapping[str, tuple[Endpoint, Answering]]) -> Iterator[Metric]:
    results: Counter[tuple[str, str]] = Counter()
    for name, (endpoint, handler) in served.items():
        results.update({(name, result): count for result, count in handler.results.items()})
        results[name, contract.SERVICE_BUSY] += endpoint.busy
        results[name, contract.INTERNAL_ERROR] += endpoint.failed
    labels = ("query", "result")
    yield counter("email_tracker_queries", "Queries by result: ok, or the error of the reply.", labels, results)
    seconds = {(name,): endpoint.seconds for name, (endpoint, _) in served.items()}
    yield histogram("email_tracker_query_seconds", "Time from query to reply.", ("query",), seconds)
    in_flight = {(name,): endpoint.in_flight for name, (endpoint, _) in served.items()}
    yield gauge("email_tracker_in_flight_queries", "Queries being answered.", ("query",), in_flight)


def _store(counts: LiveCounts, buckets: Sequence[Bucket]) -> Iterator[Metric]:
    asked = {("hit",): counts.hits, ("miss",): counts.misses}
    yield counter("email_tracker_counts_cache", "Groups found kept current, or counted anew.", ("result",), asked)
    yield gauge("email_tracker_counts_cached_emails", "Emails whose counts are kept current.", (), {(): len(counts)})
    conflicts = {(bucket.name,): bucket.conflicts for bucket in buckets}
    yield counter("email_tracker_kv_conflicts", "Writes that somebody else was faster than.", ("bucket",), conflicts)


def _receives(queue: Queue, poller: Poller) -> Iterator[Metric]:
    receives = {(result,): count for result, count in poller.receives.items()}
    yield counter("email_tracker_receives", "Receive calls by result: messages, empty, failed.", ("result",), receives)
    yield histogram("email_tracker_batch_messages", "Messages in a receive that had any.", (), {(): poller.batches})
    yield histogram("email_tracker_queue_age_seconds", "Age of a message when received.", (), {(): poller.ages})
    yield counter("email_tracker_deletes_failed", "Messages that could not be deleted.", (), {(): queue.undeleted})


def _outcomes(poller: Poller, updater: RecordUpdater) -> Iterator[Metric]:
    labels = ("kind", "outcome")
    outcomes = {**dict.fromkeys(((kind, "unmatched") for kind in KINDS), 0), **updater.outcomes, **poller.outcomes}
    yield counter("email_tracker_events", "Events by kind and outcome.", labels, outcomes)
    yield histogram("email_tracker_event_lag_seconds", "From SES's timestamp to the record.", (), {(): updater.lags})
    yield gauge("email_tracker_events_held", "Messages that wait in hand for KV or a record.", (), {(): poller.held})

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the tracker tell what its rooms have counted. Names and labels are held to the docs elsewhere."""

from __future__ import annotations

from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared import contract
from shared.kv.bucket import Bucket
from shared.nats.client import ReconnectingClient
from shared.nats.connection import Connection
from shared.nats.endpoint import Endpoint
from shared.nats.inbox import Inbox
from shared.suppression_list import SuppressionList
from tracker import metrics
from tracker.events.poller import Poller
from tracker.events.push_events import publish_nothing
from tracker.events.record_updater import RecordUpdater
from tracker.events.ses_event import KINDS
from tracker.events.sqs import Queue
from tracker.events.suppression import Suppressor
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower


@pytest.fixture
async def nobody() -> Connection:
    """A connection to NATS that nobody has opened."""
    return Connection(ReconnectingClient())


@pytest.fixture
async def bucket(nobody: Connection) -> Bucket:
    """A bucket on it."""
    return Bucket(Inbox(nobody), nobody, contract.EMAIL_RECIPIENTS_BUCKET)


async def test_queries_count_by_what_they_ask_and_what_was_answered(nobody: Connection, bucket: Bucket) -> None:
    groups = GroupReader(bucket, bucket)
    counts = LiveCounts(groups, bucket, bucket, partial(StreamFollower, nobody, Inbox(nobody)))
    handler = EmailStatusHandler(bucket, groups, lambda: 1)
    endpoint = Endpoint(nobody, contract.GET_EMAIL_STATUS_SUBJECT, handler, max_in_flight=1)
    await handler(b"{}")
    endpoint.busy, endpoint.failed, counts.hits, bucket.conflicts = 3, 2, 5, 4
    said = read(metrics.queries({"get_email_status": (endpoint, handler)}, counts, [bucket]))
    query = "email_tracker_queries_total", "get_email_status"
    assert said[*query, contract.EMAIL_OR_GROUP_REQUIRED] == 1
    assert said[*query, contract.SERVICE_BUSY] == 3
    assert said[*query, contract.INTERNAL_ERROR] == 2
    assert said["email_tracker_counts_cache_total", "hit"] == 5
    assert said["email_tracker_counts_cache_total", "miss"] == 0
    assert said["email_tracker_kv_conflicts_total", bucket.name] == 4


async def test_what_happened_to_events_is_told_by_whoever_decided_it(bucket: Bucket) -> None:
    queue = Queue("https://sqs.us-west-2.amazonaws.com/123456789012/events", {}, visibility_seconds=30)
    updater = RecordUpdater(bucket, publish_nothing)
    poller = Poller(queue, updater, receivers=1, record_wait_seconds=1)
    updater.outcomes["open", "applied"] += 2
    poller.outcomes["open", "unmatched"] += 1
    poller.receives["messages"] += 1
    queue.undeleted = 6
    said = read(metrics.receives(queue, poller) + metrics.events(poller, updater))
    assert said["email_tracker_events_total", "open", "applied"] == 2
    assert said["email_tracker_events_total", "open", "unmatched"] == 1
    assert said["email_tracker_receives_total", "messages"] == 1
    assert said["email_tracker_deletes_failed_total",] == 6


async def test_the_first_event_that_has_no_record_or_is_none_is_an_increase(bucket: Bucket) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    updater = RecordUpdater(bucket, publish_nothing)
    queue = Queue("https://sqs.us-west-2.amazonaws.com/123456789012/events", {}, visibility_seconds=30)
    said = read(metrics.events(Poller(queue, updater, receivers=1, record_wait_seconds=1), updater))
    assert {said["email_tracker_events_total", kind, "unmatched"] for kind in KINDS} == {0}
    assert said["email_tracker_events_total", "none", "malformed"] == 0


async def test_the_suppressions_are_told_by_reason_from_the_beginning(bucket: Bucket) -> None:
    suppressor = Suppressor(SuppressionList(bucket))
    suppressor.added["bounce"] += 1
    said = read(metrics.suppressions(suppressor))
    assert said["email_tracker_suppressions_total", "bounce"] == 1
    assert said["email_tracker_suppressions_total", "complaint"] == 0


def read(text: bytes) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The metrics of the tracker have the counts of its modules. Names and labels are compared with the docs elsewhere."""

from __future__ import annotations

from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared import contract
from shared.kv.bucket import Bucket
from shared.nats.client import ReconnectingClient
from shared.nats.connection import Connection
from shared.nats.endpoint import ByteLimit, Endpoint
from shared.nats.inbox import Inbox
from shared.suppression_list import SuppressionList
from tracker import metrics
from tracker.events.push_events import publish_nothing
from tracker.events.receiver import Receiver
from tracker.events.record_updater import RecordUpdater
from tracker.events.ses_event import KINDS
from tracker.events.settlement import Settlement
from tracker.events.sqs import Queue
from tracker.events.store_outage import StoreOutage
from tracker.events.suppression import Suppressor
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower


@pytest.fixture
async def unopened() -> Connection:
    """A connection to NATS that was not opened."""
    return Connection(ReconnectingClient())


@pytest.fixture
async def bucket(unopened: Connection) -> Bucket:
    """A bucket on it."""
    return Bucket(Inbox(unopened), unopened, contract.EMAIL_RECIPIENTS_BUCKET)


async def test_queries_are_counted_by_subject_and_result(unopened: Connection, bucket: Bucket) -> None:
    groups = GroupReader(bucket, bucket)
    counts = LiveCounts(groups, bucket, bucket, partial(StreamFollower, unopened, Inbox(unopened)))
    handler = EmailStatusHandler(bucket, groups, unopened.payload_limit)
    endpoint = Endpoint(unopened, contract.GET_EMAIL_STATUS_SUBJECT, handler, max_in_flight=1)
    byte_limit = ByteLimit(100)
    await handler(b"{}")
    endpoint.busy, endpoint.failed, counts.hits, bucket.conflicts = 3, 2, 5, 4
    byte_limit.in_flight = 6
    samples = read(metrics.queries([(endpoint, handler)], byte_limit, counts, [bucket]))
    query = "email_tracker_queries_total", "get_email_status"
    assert samples[*query, contract.EMAIL_OR_GROUP_REQUIRED] == 1
    assert samples[*query, contract.SERVICE_BUSY] == 3
    assert samples[*query, contract.INTERNAL_ERROR] == 2
    assert samples["email_tracker_in_flight_bytes",] == 6
    assert samples["email_tracker_counts_cache_total", "hit"] == 5
    assert samples["email_tracker_counts_cache_total", "miss"] == 0
    assert samples["email_tracker_kv_conflicts_total", bucket.name] == 4


@pytest.fixture
def queue() -> Queue:
    """A queue that is never called."""
    return Queue("https://sqs.us-west-2.amazonaws.com/123456789012/events", {}, visibility_seconds=30)


@pytest.fixture
def updater(bucket: Bucket) -> RecordUpdater:
    """An updater of the bucket."""
    return RecordUpdater(bucket, publish_nothing)


@pytest.fixture
async def settlement(queue: Queue, updater: RecordUpdater) -> Settlement:
    """A settlement of the queue."""
    return Settlement(queue, updater, StoreOutage(), record_wait_seconds=1)


async def test_events_are_counted_by_the_module_that_decides_their_outcome(
    queue: Queue, updater: RecordUpdater, settlement: Settlement
) -> None:
    receiver = Receiver(queue, settlement, StoreOutage(), long_polls=1)
    updater.outcomes["open", "applied"] += 2
    updater.permanent_bounces = 3
    settlement.outcomes["open", "unmatched"] += 1
    receiver.receives["messages"] += 1
    queue.undeleted = 6
    samples = read(metrics.receives(queue, receiver) + metrics.events(settlement, updater))
    assert samples["email_tracker_events_total", "open", "applied"] == 2
    assert samples["email_tracker_events_total", "open", "unmatched"] == 1
    assert samples["email_tracker_permanent_bounces_total",] == 3
    assert samples["email_tracker_receives_total", "messages"] == 1
    assert samples["email_tracker_receives_total", "failed"] == 0
    assert samples["email_tracker_deletes_failed_total",] == 6


async def test_the_first_event_of_each_kind_is_an_increase(updater: RecordUpdater, settlement: Settlement) -> None:
    """Prometheus sees no increase in a series that begins with 1."""
    samples = read(metrics.events(settlement, updater))
    for outcome in ("applied", "unmatched"):
        assert {samples["email_tracker_events_total", kind, outcome] for kind in KINDS} == {0}
    assert samples["email_tracker_events_total", "none", "malformed"] == 0


async def test_suppressions_are_counted_by_reason_from_the_start(bucket: Bucket) -> None:
    suppressor = Suppressor(SuppressionList(bucket))
    suppressor.added["bounce"] += 1
    samples = read(metrics.suppressions(suppressor))
    assert samples["email_tracker_suppressions_total", "bounce"] == 1
    assert samples["email_tracker_suppressions_total", "complaint"] == 0


def read(text: bytes) -> dict[tuple[str, ...], float]:
    """Return each sample by its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(text.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

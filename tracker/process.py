# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The life of the tracker: each context starts after the ones around it and stops before them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from shared import contract, push_stream
from shared.kv import setup as kv_setup
from shared.kv.bucket import Bucket
from shared.nats.endpoint import ByteLimit, Endpoint
from shared.nats.inbox import Inbox
from shared.nats.micro import Discovery
from shared.push_stream import PushStream
from shared.service.tasks import Tasks
from tracker import settings
from tracker.capacity import Capacity
from tracker.events import aws_environment
from tracker.events.durable_push_events import DurablePushEvents
from tracker.events.push_events import PushEvents, publish_nothing
from tracker.events.receiver import Receiver
from tracker.events.record_updater import RecordUpdater, suppress_nobody
from tracker.events.settlement import VISIBILITY_SECONDS, Settlement
from tracker.events.store_outage import StoreOutage
from tracker.queries.email_analytics_handler import EmailAnalyticsHandler
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, MutableMapping
    from types import ModuleType

    from shared.lifecycle import Life, Serve
    from shared.nats.connection import Connection
    from tracker.events.rebuilder import Rebuilder
    from tracker.events.record_updater import Suppress
    from tracker.events.settlement import Apply
    from tracker.settings import TrackerSettings

log = logging.getLogger(__name__)

NAME: Final = "lfx-email-tracker"
# Shares of SHUTDOWN_TIMEOUT_SECONDS; after 0.7 of it the stop is cut off. Writes that have begun get their answer.
WRITES_SHARE: Final = 0.35  # after which no record is written
LAST_SHARE: Final = 0.1  # for answers to writes when the stop is cut off, and then for reading what was written
DESCRIPTION: Final = "Applies the events of Amazon SES to the records, answers status and analytics queries"


class _Buckets(NamedTuple):
    recipients: Bucket
    group_index: Bucket
    suppressions: Bucket
    idempotency: Bucket
    inbox: Inbox


def prepare(config: TrackerSettings, environ: MutableMapping[str, str], *, create_missing: bool) -> Serve:
    """Return the function that answers queries and, if eventing is on, applies events, until the process stops.

    The variables of `environ` that boto3 reads itself are corrected first.

    Raises:
        SettingsError: settings contradict each other.
    """
    settings.check(config)
    aws_environment.correct(environ)

    async def serve(life: Life, connection: Connection) -> None:
        if create_missing:
            await kv_setup.create_missing(connection, contract.BUCKETS)
            await push_stream.create_missing(connection)
        async with Inbox(connection) as inbox:
            if config.push_events_durable:
                await kv_setup.require(connection, PushStream(inbox))
            buckets = _buckets(life, connection, inbox)
            with (
                _in_background(kv_setup.report_unusable(inbox, connection, _optional(config))),
                _watching_capacity(life, inbox, buckets),
            ):
                async with (
                    _applying_events(life, connection, buckets, config, environ) as receiver,
                    _answering_queries(life, connection, inbox, buckets, config),
                ):
                    life.serving()
                    log.info("tracker.serving", extra={"eventing": config.ses_eventing_enabled})
                    await _until_done(life, receiver)

    return serve


def _buckets(life: Life, connection: Connection, inbox: Inbox) -> _Buckets:
    return _Buckets(
        recipients=Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET, life.spans),
        group_index=Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET, life.spans),
        suppressions=Bucket(inbox, connection, contract.EMAIL_SUPPRESSIONS_BUCKET, life.spans),
        idempotency=Bucket(inbox, connection, contract.EMAIL_IDEMPOTENCY_BUCKET),
        inbox=inbox,
    )


def _optional(config: TrackerSettings) -> list[str]:
    """Return the names of the buckets that are used, without those that the start requires."""
    kv = [] if config.ses_eventing_enabled else [contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET]
    return [*kv, contract.EMAIL_SUPPRESSIONS_BUCKET] if config.suppression_enabled else kv


@contextmanager
def _in_background(work: Coroutine[object, object, None]) -> Iterator[None]:
    task = Tasks().start(work)
    try:
        yield
    finally:
        task.cancel()


@contextmanager
def _watching_capacity(life: Life, inbox: Inbox, buckets: _Buckets) -> Iterator[None]:
    known = buckets.recipients, buckets.group_index, buckets.suppressions, buckets.idempotency
    capacity = Capacity(inbox, known)
    life.expose(lambda: _metrics().capacity(capacity))
    with _in_background(capacity.watch()):
        yield


@asynccontextmanager
async def _applying_events(
    life: Life, connection: Connection, buckets: _Buckets, config: TrackerSettings, environ: Mapping[str, str]
) -> AsyncIterator[Receiver | None]:
    """Receive and apply events while the context is open, if eventing is on.

    Raises:
        StoreUnavailable: a bucket that the events need is missing, or JetStream does not answer.
    """
    if not config.ses_eventing_enabled:
        yield None
        return
    await kv_setup.require(connection, buckets.recipients, buckets.group_index)
    from tracker.events.sqs import Queue  # noqa: PLC0415 - boto3 takes 135 ms and 19 MB

    rebuilder = _rebuilder(life, buckets, config)
    updater = _updater(life, connection, buckets, config, rebuilder)
    url, long_polls = config.ses_engagement_sqs_queue_url, config.sqs_receivers
    queue = Queue(url, environ, visibility_seconds=VISIBILITY_SECONDS, long_polls=long_polls)
    outage = StoreOutage()
    connection.on_disconnect(outage.suspect)
    wait_seconds = config.engagement_record_wait_seconds
    rebuild = _rebuild(rebuilder, updater) if rebuilder else None
    settlement = Settlement(queue, updater, outage, record_wait_seconds=wait_seconds, rebuild=rebuild, spans=life.spans)
    last_seconds = config.shutdown_timeout_seconds * LAST_SHARE
    try:
        async with Receiver(queue, settlement, outage, long_polls=long_polls, grace_seconds=last_seconds) as receiver:
            life.expose(lambda: _metrics().receives(queue, receiver))
            life.expose(lambda: _metrics().events(settlement, updater))
            with _in_background(updater.watch()):
                yield receiver
            asyncio.get_running_loop().call_later(config.shutdown_timeout_seconds * WRITES_SHARE, updater.end_writes)
    finally:
        await updater.close(last_seconds)


def _rebuilder(life: Life, buckets: _Buckets, config: TrackerSettings) -> Rebuilder | None:
    if not config.engagement_rebuild_records:
        return None
    from tracker.events.rebuilder import Rebuilder  # noqa: PLC0415 - its imports take 20 ms

    rebuilder = Rebuilder(buckets.recipients, buckets.group_index)
    life.expose(lambda: _metrics().rebuilds(rebuilder))
    return rebuilder


def _rebuild(rebuilder: Rebuilder, updater: RecordUpdater) -> Apply:
    from tracker.events.rebuilding import Rebuilding  # noqa: PLC0415 - as above

    return Rebuilding(rebuilder, updater).rebuild


def _updater(
    life: Life, connection: Connection, buckets: _Buckets, config: TrackerSettings, rebuilder: Rebuilder | None
) -> RecordUpdater:
    group = rebuilder.group if rebuilder else None
    suppress = _suppress(life, buckets, config)
    if config.push_events_durable:
        durable = DurablePushEvents(buckets.inbox)
        life.expose(lambda: _metrics().push_events(durable.outcomes))
        return RecordUpdater(buckets.recipients, publish_nothing, suppress, durable, group)
    pushes = PushEvents(connection)
    life.expose(lambda: _metrics().push_events(pushes.outcomes))
    return RecordUpdater(buckets.recipients, pushes, suppress, group=group)


def _suppress(life: Life, buckets: _Buckets, config: TrackerSettings) -> Suppress:
    if not config.suppression_enabled:
        return suppress_nobody
    from shared.suppression_list import SuppressionList  # noqa: PLC0415 - parsing addresses takes 20 ms to import
    from tracker.events.suppression import Suppressor  # noqa: PLC0415

    suppressor = Suppressor(SuppressionList(buckets.suppressions))
    life.expose(lambda: _metrics().suppressions(suppressor))
    return suppressor


@asynccontextmanager
async def _answering_queries(
    life: Life, connection: Connection, inbox: Inbox, buckets: _Buckets, config: TrackerSettings
) -> AsyncIterator[None]:
    """Answer queries while the context is open."""
    recipients, index = buckets.recipients, buckets.group_index
    groups = GroupReader(recipients, index)
    follow = partial(StreamFollower, connection, inbox)
    byte_limit = ByteLimit(config.max_in_flight_bytes)
    endpoint = partial(
        Endpoint, connection, max_in_flight=config.max_in_flight, byte_limit=byte_limit, spans=life.spans
    )
    async with aclosing(LiveCounts(groups, recipients, index, follow)) as counts:
        by_both_ids = config.status_by_both_ids
        status = EmailStatusHandler(recipients, groups, connection.payload_limit, by_both_ids=by_both_ids)
        analytics = EmailAnalyticsHandler(counts.count)
        async with (
            endpoint(contract.GET_EMAIL_STATUS_SUBJECT, status) as status_endpoint,
            endpoint(contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT, analytics) as analytics_endpoint,
            Discovery(connection, NAME, DESCRIPTION, [status_endpoint, analytics_endpoint]),
        ):
            served = [(status_endpoint, status), (analytics_endpoint, analytics)]
            life.expose(lambda: _metrics().queries(served, byte_limit, counts, (recipients, index)))
            yield


async def _until_done(life: Life, receiver: Receiver | None) -> None:
    """Return when the process has to stop: after a signal, or after a receiver has failed."""
    stopping = asyncio.create_task(life.stopping.wait())
    if receiver is None:
        await stopping
        return
    failed = asyncio.create_task(receiver.failed.wait())
    await asyncio.wait({stopping, failed}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    failed.cancel()
    if receiver.failed.is_set():
        life.fail()


def _metrics() -> ModuleType:
    from tracker import metrics  # noqa: PLC0415 - imports the Prometheus client, which only a scrape needs

    return metrics

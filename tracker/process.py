# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The life of the tracker, wired in one place: what is started last is stopped first."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from shared import contract
from shared.errors import StoreUnavailable
from shared.kv import setup as missing_buckets
from shared.kv.bucket import Bucket
from shared.nats.endpoint import Endpoint
from shared.nats.inbox import Inbox
from shared.nats.micro import Discovery
from shared.service.tasks import Tasks
from tracker import settings
from tracker.events.poller import VISIBILITY_SECONDS, Poller
from tracker.events.push_events import PushEvents
from tracker.events.record_updater import RecordUpdater, suppress_nobody
from tracker.queries.email_analytics_handler import EmailAnalyticsHandler
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.stream_follower import StreamFollower

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from shared.lifecycle import Life, Serve
    from shared.nats.connection import Connection
    from tracker.events.poller import Updater
    from tracker.events.suppression import Suppressor
    from tracker.settings import TrackerSettings

    QueryHandler = EmailStatusHandler | EmailAnalyticsHandler

log = logging.getLogger(__name__)

NAME: Final = "lfx-email-tracker"
DESCRIPTION: Final = "Applies the events of Amazon SES to the records, answers status and analytics queries"
KV_PATIENCE_SECONDS: Final = 3.0  # JetStream may still be choosing its leaders when NATS is already there


def prepare(config: TrackerSettings, environ: Mapping[str, str], *, create_buckets: bool) -> Serve:
    """Return what answers the queries and, if eventing is on, applies the events, until told to stop.

    Raises:
        SettingsError: settings that do not fit each other.
    """
    settings.check(config)

    async def serve(life: Life, connection: Connection) -> None:
        if create_buckets:
            await missing_buckets.create_missing(connection, contract.BUCKETS)
        async with AsyncExitStack() as stack:
            inbox = await stack.enter_async_context(Inbox(connection))
            recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET, life.spans)
            index = Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET, life.spans)
            suppressions = Bucket(inbox, connection, contract.EMAIL_SUPPRESSIONS_BUCKET, life.spans)
            stack.callback(Tasks().start(missing_buckets.report_unusable(inbox, connection, _optional(config))).cancel)
            poller = None
            if config.ses_eventing_enabled:
                await _require(recipients, index)
                suppress = _suppressor(life, suppressions) if config.suppression_enabled else suppress_nobody
                updater = RecordUpdater(recipients, PushEvents(connection), suppress)
                poller = await _poller(stack, life, config, environ, updater)
                life.expose(lambda: _metrics().events(poller, updater))
                connection.on_disconnect(poller.outage.suspect)
            groups = GroupReader(recipients, index)
            counts = LiveCounts(groups, recipients, index, partial(StreamFollower, connection, inbox))
            stack.push_async_callback(counts.aclose)
            status = EmailStatusHandler(recipients, groups, lambda: connection.max_payload)
            handlers: dict[str, QueryHandler] = {
                contract.GET_EMAIL_STATUS_SUBJECT: status,
                contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT: EmailAnalyticsHandler(counts.count),
            }
            queries = await _queries(stack, life, connection, handlers, config.max_in_flight)
            life.expose(lambda: _metrics().queries(queries, counts, (recipients, index)))
            life.serving()
            log.info("tracker.serving", extra={"eventing": config.ses_eventing_enabled})
            await _until_done(life, poller)

    return serve


async def _queries(
    stack: AsyncExitStack,
    life: Life,
    connection: Connection,
    handlers: Mapping[str, QueryHandler],
    max_in_flight: int,
) -> dict[str, tuple[Endpoint, QueryHandler]]:
    """Answer queries; return what answers each, by the last word of its subject."""
    queries = {}
    for subject, handler in handlers.items():
        endpoint = Endpoint(connection, subject, handler, max_in_flight=max_in_flight, spans=life.spans)
        await stack.enter_async_context(endpoint)
        queries[subject.rpartition(".")[2]] = (endpoint, handler)
    endpoints = [endpoint for endpoint, _ in queries.values()]
    await stack.enter_async_context(Discovery(connection, NAME, DESCRIPTION, endpoints))
    return queries


def _optional(config: TrackerSettings) -> list[str]:
    """Return the buckets that are used and that the start does not insist on."""
    kv = [] if config.ses_eventing_enabled else [contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET]
    return [*kv, contract.EMAIL_SUPPRESSIONS_BUCKET] if config.suppression_enabled else kv


async def _require(*buckets: Bucket) -> None:
    """Insist on KV where events are to be applied: without it the start fails, after a few seconds of patience.

    Raises:
        StoreUnavailable: a bucket is not there.
    """
    for needed in buckets:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(KV_PATIENCE_SECONDS),
            reraise=True,
        ):
            with attempt:
                await needed.info()


async def _until_done(life: Life, poller: Poller | None) -> None:
    """Return when it is time to stop, which a poller that has failed begins as a signal does."""
    stopping = asyncio.create_task(life.stopping.wait())
    if poller is None:
        await stopping
        return
    failed = asyncio.create_task(poller.failed.wait())
    await asyncio.wait({stopping, failed}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    failed.cancel()
    if poller.failed.is_set():
        life.fail()


def _suppressor(life: Life, suppressions: Bucket) -> Suppressor:
    from shared.suppression_list import SuppressionList  # noqa: PLC0415 - what reads addresses takes 20 ms
    from tracker.events.suppression import Suppressor  # noqa: PLC0415

    suppressor = Suppressor(SuppressionList(suppressions))
    life.expose(lambda: _metrics().suppressions(suppressor))
    return suppressor


async def _poller(
    stack: AsyncExitStack, life: Life, config: TrackerSettings, environ: Mapping[str, str], updater: Updater
) -> Poller:
    from tracker.events.sqs import Queue  # noqa: PLC0415 - boto3 takes 135 ms and 19 MB

    queue = Queue(config.ses_engagement_sqs_queue_url, environ, visibility_seconds=VISIBILITY_SECONDS)
    poller = Poller(
        queue,
        updater,
        receivers=config.sqs_receivers,
        record_wait_seconds=config.engagement_record_wait_seconds,
        spans=life.spans,
    )
    life.expose(lambda: _metrics().receives(queue, poller))
    return await stack.enter_async_context(poller)


def _metrics() -> ModuleType:
    from tracker import metrics  # noqa: PLC0415 - brings the Prometheus client, which nobody may ever ask for

    return metrics

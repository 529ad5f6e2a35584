# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The life of the relay, wired in one place: what is started last is stopped first."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from relay import settings
from relay.errors import Barred
from relay.records import idempotency_store as claims
from relay.records import record_writer
from relay.records.index_writer import IndexWriter
from relay.screening import Screening
from relay.send_email_handler import Options, SendEmailHandler
from relay.smtp import delivery
from relay.smtp.connection import Connector
from relay.smtp.pool import Limits, Pool
from shared import contract
from shared.kv import setup as missing_buckets
from shared.kv.bucket import Bucket
from shared.nats.endpoint import Endpoint
from shared.nats.inbox import Inbox
from shared.nats.micro import Discovery
from shared.service.tasks import Tasks

if TYPE_CHECKING:
    from types import ModuleType

    from relay.screening import Deliver
    from relay.send_email_handler import Claims, Records
    from relay.settings import RelaySettings
    from shared.lifecycle import Life, Serve
    from shared.nats.connection import Connection

log = logging.getLogger(__name__)

NAME = "lfx-email-relay"
DESCRIPTION = "Delivers the platform's email over SMTP and writes the first tracking record"


def prepare(config: RelaySettings, *, create_buckets: bool) -> Serve:
    """Return what serves `send_email` until told to stop.

    Raises:
        SettingsError: settings that do not fit each other.
    """
    options = Options(
        policy=settings.policy(config),
        configuration_set=config.ses_configuration_set,
        send_retry_seconds=config.send_retry_seconds,
        longest_request=settings.longest_request(config),
    )

    async def serve(life: Life, connection: Connection) -> None:
        if create_buckets:
            await missing_buckets.create_missing(connection, contract.BUCKETS)
        async with AsyncExitStack() as stack:
            rooms = _disabled()
            if config.email_enabled:
                rooms = await _enabled(stack, life, connection, config)
            handler = SendEmailHandler(*rooms, options._replace(traceparent=life.spans.traceparent))
            endpoint = Endpoint(
                connection,
                contract.SEND_EMAIL_SUBJECT,
                handler,
                max_in_flight=config.max_in_flight,
                spans=life.spans,
            )
            await stack.enter_async_context(endpoint)
            await stack.enter_async_context(Discovery(connection, NAME, DESCRIPTION, [endpoint]))
            life.expose(lambda: _metrics().requests(endpoint, handler))
            life.serving()
            log.info("relay.serving", extra={"email_enabled": config.email_enabled, "smtp_host": config.smtp_host})
            await life.stopping.wait()

    return serve


def _disabled() -> tuple[Deliver, Records, Claims]:
    return delivery.Disabled(), record_writer.NoRecords(), claims.NoClaims()


async def _enabled(
    stack: AsyncExitStack, life: Life, connection: Connection, config: RelaySettings
) -> tuple[Deliver, Records, Claims]:
    inbox = await stack.enter_async_context(Inbox(connection))
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET, life.spans)
    index = Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET, life.spans)
    idempotency = Bucket(inbox, connection, contract.EMAIL_IDEMPOTENCY_BUCKET, life.spans)
    once = await stack.enter_async_context(claims.Claims(idempotency))
    records = await stack.enter_async_context(record_writer.RecordWriter(recipients, IndexWriter(index)))
    pool = await stack.enter_async_context(Pool(Connector(config).connect, _limits(config), for_all=Barred))
    deliver = delivery.Delivery(
        pool,
        max_send_rate=config.ses_max_send_rate,
        server=(config.smtp_host, config.smtp_port),
        spans=life.spans,
    )
    life.expose(lambda: _metrics().sending(deliver, pool, records, once, (recipients, index, idempotency)))
    suppressions = Bucket(inbox, connection, contract.EMAIL_SUPPRESSIONS_BUCKET, life.spans)
    needed = [recipients.name, index.name, *([suppressions.name] if config.suppression_enabled else [])]
    stack.callback(Tasks().start(missing_buckets.report_unusable(inbox, connection, needed)).cancel)
    return Screening(deliver, suppressions) if config.suppression_enabled else deliver, records, once


def _metrics() -> ModuleType:
    from relay import metrics  # noqa: PLC0415 - brings the Prometheus client, which nobody may ever ask for

    return metrics


def _limits(config: RelaySettings) -> Limits:
    return Limits(
        connections=config.smtp_max_connections,
        messages=config.smtp_max_messages_per_connection,
        idle_seconds=config.smtp_max_idle_seconds,
        age_seconds=config.smtp_max_age_seconds,
    )

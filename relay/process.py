# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The life of the relay, wired in one place: what is started last is stopped first."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from relay import delivery, record_writer, settings
from relay.errors import Barred
from relay.index_writer import IndexWriter
from relay.send_email_handler import Options, SendEmailHandler
from relay.smtp_connection import Connector
from relay.smtp_pool import Limits, Pool
from shared import bucket, contract
from shared.endpoint import Endpoint
from shared.inbox import Inbox

if TYPE_CHECKING:
    from relay.send_email_handler import Deliver, Records
    from relay.settings import RelaySettings
    from shared.connection import Connection
    from shared.lifecycle import Life, Serve

log = logging.getLogger(__name__)

NAME = "lfx-email-relay"


def prepare(config: RelaySettings, *, create_buckets: bool) -> Serve:
    """Return what serves `send_email` until told to stop.

    Raises:
        SettingsError: settings that do not fit each other.
    """
    options = Options(settings.policy(config), config.ses_configuration_set, config.send_retry_seconds)

    async def serve(life: Life, connection: Connection) -> int:
        if create_buckets:
            await bucket.create_missing(connection, contract.BUCKETS)
        async with AsyncExitStack() as stack:
            inbox = await stack.enter_async_context(Inbox(connection))
            records: Records = record_writer.NoRecords()
            deliver: Deliver = delivery.Disabled()
            if config.email_enabled:
                records = await stack.enter_async_context(_record_writer(inbox, connection))
                pool = await stack.enter_async_context(Pool(Connector(config).connect, _limits(config), for_all=Barred))
                deliver = delivery.Delivery(pool, max_send_rate=config.ses_max_send_rate)
            handler = SendEmailHandler(deliver, records, options)
            endpoint = Endpoint(connection, contract.SEND_EMAIL_SUBJECT, handler, max_in_flight=config.max_in_flight)
            await stack.enter_async_context(endpoint)
            life.serving()
            log.info("relay.serving", extra={"email_enabled": config.email_enabled, "smtp_host": config.smtp_host})
            await life.stopping.wait()
        return 0

    return serve


def _record_writer(inbox: Inbox, connection: Connection) -> record_writer.RecordWriter:
    index = IndexWriter(bucket.Bucket(inbox, connection, contract.EMAIL_GROUP_INDEX_BUCKET))
    return record_writer.RecordWriter(bucket.Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET), index)


def _limits(config: RelaySettings) -> Limits:
    return Limits(
        connections=config.smtp_max_connections,
        messages=config.smtp_max_messages_per_connection,
        idle_seconds=config.smtp_max_idle_seconds,
        age_seconds=config.smtp_max_age_seconds,
    )

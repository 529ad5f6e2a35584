# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The life of the relay: its parts are opened in this order, and closed in the opposite order."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

from relay import settings
from relay.errors import Deferred
from relay.group_share import GroupShare
from relay.presence import Presence
from relay.records.idempotency_store import DisabledIdempotencyStore, IdempotencyStore
from relay.records.record_writer import DisabledRecordWriter, RecordWriter
from relay.send_email_handler import Options, SendEmailHandler, Steps
from relay.smtp.connection import Connector
from relay.smtp.delivery import Delivery, DisabledDelivery
from relay.smtp.pool import Pool, PoolLimits
from relay.smtp.send_rate import SendRate
from shared import contract, push_stream
from shared.index_writer import IndexWriter
from shared.kv import setup
from shared.kv.bucket import Bucket
from shared.nats.endpoint import ByteLimit, Endpoint
from shared.nats.inbox import Inbox
from shared.nats.micro import Discovery
from shared.service.tasks import Tasks
from shared.suppression_list import SuppressionList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from types import ModuleType

    from relay.settings import RelaySettings
    from shared.lifecycle import Life, Serve
    from shared.nats.connection import Connection

log = logging.getLogger(__name__)

NAME: Final = "lfx-email-relay"
DESCRIPTION: Final = "Delivers the platform's email over SMTP and writes the first tracking record"
ATTEMPTS_TO_CONNECT: Final = 3  # at least, in the time of a request
STEADY: Final = 0.98  # of a share: late timers and slow networks move emails closer to each other
DISABLED: Final = Steps(DisabledDelivery(), DisabledRecordWriter(), DisabledIdempotencyStore())


def prepare(config: RelaySettings, *, create_missing: bool) -> Serve:
    """Check the settings, and return the coroutine function that serves `send_email` until the process stops.

    Raises:
        SettingsError: a setting is wrong, or two settings contradict each other.
    """
    options = Options(settings.policy(config), config.ses_configuration_set, config.send_retry_seconds)

    async def serve(life: Life, connection: Connection) -> None:
        if create_missing:
            await setup.create_missing(connection, contract.BUCKETS)
            await push_stream.create_missing(connection)
        async with _sending(life, connection, config) if config.email_enabled else nullcontext(DISABLED) as steps:
            byte_limit = ByteLimit(config.max_in_flight_bytes)
            share = GroupShare(config.max_in_flight, config.max_in_flight_bytes)
            handler = SendEmailHandler(options, steps, life.spans, share)
            endpoint = Endpoint(
                connection,
                contract.SEND_EMAIL_SUBJECT,
                handler,
                max_in_flight=config.max_in_flight,
                byte_limit=byte_limit,
                share=share,
                spans=life.spans,
            )
            async with endpoint, Discovery(connection, NAME, DESCRIPTION, [endpoint]):
                life.expose(lambda: _metrics().requests(endpoint, handler, byte_limit))
                life.serving()
                log.info("relay.serving", extra={"email_enabled": config.email_enabled, "smtp_host": config.smtp_host})
                await life.stopping.wait()

    return serve


@asynccontextmanager
async def _sending(life: Life, connection: Connection, config: RelaySettings) -> AsyncIterator[Steps]:
    """Open the parts that exist only with EMAIL_ENABLED=true."""
    async with Inbox(connection) as inbox:
        bucket = partial(Bucket, inbox, connection, spans=life.spans)
        recipients, index = bucket(contract.EMAIL_RECIPIENTS_BUCKET), bucket(contract.EMAIL_GROUP_INDEX_BUCKET)
        keys = bucket(contract.EMAIL_IDEMPOTENCY_BUCKET)
        suppressions = bucket(contract.EMAIL_SUPPRESSIONS_BUCKET) if config.suppression_enabled else None
        connector = Connector(config)
        needed = [one.name for one in (recipients, index, suppressions) if one]
        async with (
            IdempotencyStore(keys, settings.longest_request(config)) as idempotency_store,
            RecordWriter(recipients, IndexWriter(index)) as records,
            _presence(life, connection, config) as presence,  # sends nothing any more when it ends
            Pool(connector.connect, _limits(config), temporary=Deferred) as pool,
            _task(setup.report_unusable(inbox, connection, needed)),
        ):
            server = (config.smtp_host, config.smtp_port)
            send_rate = _send_rate(config, presence)
            deliver = Delivery(pool, send_rate=send_rate, server=server, spans=life.spans)
            buckets = (recipients, index, keys)
            life.expose(lambda: _metrics().sending(deliver, pool, records, idempotency_store, buckets))
            life.expose(lambda: _metrics().server_certificate(connector))
            suppression_list = SuppressionList(suppressions) if suppressions else None
            if presence:
                await presence.wait_for_share()
            yield Steps(deliver, records, idempotency_store, suppression_list)


@asynccontextmanager
async def _presence(life: Life, connection: Connection, config: RelaySettings) -> AsyncIterator[Presence | None]:
    """Share the rate of the account with the other relays, if it is limited."""
    if not config.ses_account_send_rate:
        yield None
        return
    async with Presence(connection, config.ses_account_send_rate, config.send_retry_seconds) as presence:
        life.expose(lambda: _metrics().sharing(presence))
        yield presence


def _send_rate(config: RelaySettings, presence: Presence | None) -> SendRate:
    """Return the rate of this process: the lower one of its own and its share."""
    own = config.ses_max_send_rate
    if not presence:
        return SendRate((lambda: own) if own else None)
    limit = own or float("inf")
    send_rate = SendRate(lambda: min(presence.share * STEADY, limit))
    presence.on_change = send_rate.change
    return send_rate


@asynccontextmanager
async def _task(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run `work` beside the context, at most until its end."""
    tasks = Tasks()
    tasks.start(work)
    try:
        yield
    finally:
        tasks.cancel()


def _limits(config: RelaySettings) -> PoolLimits:
    return PoolLimits(
        connections=config.smtp_max_connections,
        messages=config.smtp_max_messages_per_connection,
        idle_seconds=config.smtp_max_idle_seconds,
        age_seconds=config.smtp_max_age_seconds,
        pause_seconds=config.send_retry_seconds / ATTEMPTS_TO_CONNECT,
    )


def _metrics() -> ModuleType:
    from relay import metrics  # noqa: PLC0415 - loads the Prometheus client only when /metrics is read

    return metrics

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reports missing buckets, and creates them on a local server. In production the relay's chart creates them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from shared import contract
from shared.errors import StoreUnavailable
from shared.kv.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

log = logging.getLogger(__name__)


async def report_unusable(inbox: Inbox, connection: Connection, names: Sequence[str]) -> None:
    """Log at start-up which buckets cannot be used; the process goes on and waits for them."""
    for name in names:
        try:
            await Bucket(inbox, connection, name).info()
        except StoreUnavailable as error:
            extra = {"bucket": name, "error": str(error)}
            log.warning("bucket.unusable", extra=extra | ({"advice": error.advice} if error.advice else {}))


async def create_missing(connection: Connection, names: Sequence[str]) -> None:
    """Create the buckets that do not exist.

    Raises:
        StoreUnavailable: JetStream is off or full.
    """
    import nats.js.errors  # noqa: PLC0415 - needed only where buckets are created
    from nats.js.api import KeyValueConfig  # noqa: PLC0415

    js = connection.jetstream()
    for name in names:
        try:
            try:
                await js.key_value(name)
            except nats.js.errors.NotFoundError:
                ttl = contract.BUCKET_TTL_SECONDS.get(name)
                await js.create_key_value(KeyValueConfig(bucket=name, history=1, ttl=ttl, direct=True))
                log.info("bucket.created", extra={"bucket": name})
        except nats.errors.Error as error:
            raise StoreUnavailable(f"bucket {name}: {error}") from error

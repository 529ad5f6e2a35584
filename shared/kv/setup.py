# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Waits for buckets, reports missing ones, and creates them on a local server; otherwise the relay's chart does.

`shared.push_stream` does the same for the stream of push events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Protocol

from shared import contract
from shared.errors import BucketUnfit, NotPermitted, SetupIncomplete, StoreUnavailable
from shared.kv.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

log = logging.getLogger(__name__)

JETSTREAM_PATIENCE_SECONDS: Final = 15.0  # an election, or the restart of a node
PAUSE_SECONDS: Final = 0.2


class Described(Protocol):
    """A bucket or a stream."""

    async def info(self) -> object:
        """Ask JetStream for it; raise SetupIncomplete if it cannot be used."""


class JetStreamSilent(StoreUnavailable):
    """JetStream has not answered for a while, so buckets and streams count as missing."""

    advice = "enable JetStream on the NATS server and for this account, and check that its cluster has a leader"


async def report_unusable(inbox: Inbox, connection: Connection, names: Sequence[str]) -> None:
    """Log at start-up which buckets cannot be used; the process goes on and waits for them."""
    for name in names:
        try:
            await Bucket(inbox, connection, name).info()
        except StoreUnavailable as error:
            extra = {"bucket": name, "error": str(error)}
            log.warning("bucket.unusable", extra=extra | ({"advice": error.advice} if error.advice else {}))


async def require(connection: Connection, *needed: Described) -> None:
    """Return when all that is needed exists; time without a NATS connection does not count.

    Raises:
        SetupIncomplete: JetStream has answered that one does not exist, or cannot be used.
        NotPermitted: the NATS user may not ask.
        JetStreamSilent: JetStream did not answer for JETSTREAM_PATIENCE_SECONDS.
    """
    now = time.monotonic
    deadline = now() + JETSTREAM_PATIENCE_SECONDS
    while True:
        try:
            for one in needed:
                await one.info()
        except (SetupIncomplete, NotPermitted):
            raise
        except StoreUnavailable as error:
            if not connection.connected:
                deadline = now() + JETSTREAM_PATIENCE_SECONDS
            elif now() >= deadline:
                raise JetStreamSilent(f"no answer for {JETSTREAM_PATIENCE_SECONDS:g} s: {error}") from error
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


async def create_missing(connection: Connection, names: Sequence[str]) -> None:
    """Create the buckets that do not exist.

    Raises:
        JetStreamSilent: JetStream is off, or has no leader.
        BucketUnfit: a stream has the name of a bucket, and is none.
        StoreUnavailable: JetStream refuses a bucket.
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
        except nats.js.errors.ServiceUnavailableError as error:
            raise JetStreamSilent(f"bucket {name}: {error.description or 'JetStream does not answer'}") from error
        except nats.js.errors.BadBucketError as error:
            raise BucketUnfit(f"bucket {name}: keeps any number of values of a key (max_msgs_per_subject)") from error
        except nats.errors.Error as error:
            raise StoreUnavailable(f"bucket {name}: {error}") from error

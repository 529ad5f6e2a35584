# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Creates a bucket, also in a cluster that has just begun, and reads all that it stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.js.errors import NotFoundError
from tenacity import retry, retry_if_exception_type, stop_after_attempt

if TYPE_CHECKING:
    from nats.js.api import KeyValueConfig, RawStreamMsg
    from nats.js.client import JetStreamContext


@retry(retry=retry_if_exception_type(TimeoutError), stop=stop_after_attempt(4), reraise=True)
async def create(jetstream: JetStreamContext, config: KeyValueConfig) -> None:
    """Create a bucket. A cluster whose leader changes meanwhile does not answer, and may have created it."""
    await jetstream.create_key_value(config)


async def stored(jetstream: JetStreamContext, bucket: str, key: str = ">") -> list[RawStreamMsg]:
    """Return all messages under a key or a pattern, also old values and markers, in their order.

    `KeyValue.keys` and `KeyValue.history` of nats-py find none if all messages arrive before their first look.
    """
    found: list[RawStreamMsg] = []
    while True:
        after = (found[-1].seq or 0) + 1 if found else 1
        try:
            found.append(await jetstream.get_msg(f"KV_{bucket}", after, f"$KV.{bucket}.{key}", next=True))
        except NotFoundError:
            return found

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Creates a bucket, also in a cluster that has just begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import retry, retry_if_exception_type, stop_after_attempt

if TYPE_CHECKING:
    from nats.js.api import KeyValueConfig
    from nats.js.client import JetStreamContext


@retry(retry=retry_if_exception_type(TimeoutError), stop=stop_after_attempt(4), reraise=True)
async def create(jetstream: JetStreamContext, config: KeyValueConfig) -> None:
    """Create a bucket. A cluster whose leader changes meanwhile does not answer, and may have created it."""
    await jetstream.create_key_value(config)

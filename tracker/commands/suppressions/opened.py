# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Opens the suppression list for a command."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shared import contract
from shared.commands import command
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan
from shared.nats.inbox import Inbox
from shared.suppression_list import SuppressionList

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[tuple[SuppressionList, BucketScan]]:
    """Connect to NATS as the command `name`; yield the list, and a scan over all of it.

    Raises:
        BucketMissing: the bucket does not exist.
    """
    async with command.connected(name) as caller, Inbox(caller.connection) as inbox:
        bucket = Bucket(inbox, caller.connection, contract.EMAIL_SUPPRESSIONS_BUCKET)
        await bucket.info()
        yield SuppressionList(bucket), BucketScan(caller.connection, inbox, bucket)

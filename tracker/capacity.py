# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: asks once a minute how many bytes the buckets and the account store, and how many they may store."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.errors import BucketMissing, NotPermitted, StoreUnavailable
from shared.kv import jetstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from shared.kv.bucket import Bucket
    from shared.kv.jetstream import Tier
    from shared.nats.inbox import Inbox

INTERVAL_SECONDS: Final = 60.0
DENIED_SECONDS: Final = 3600.0  # each request without a permission is a log line
ACCOUNT: Final = ""


class Usage(NamedTuple):
    """How many bytes are stored, and the limit; infinite without a limit."""

    stored: int
    limit: float


class Capacity:
    """The usage of each bucket that exists, and of the account.

    Without an answer the last usage stays: a server whose disk is full does not answer, and an alert must not end then.
    A bucket that does not exist, or that the user may not ask for, has no usage.
    """

    def __init__(self, inbox: Inbox, buckets: Sequence[Bucket]) -> None:
        """Name the buckets; they need not exist."""
        self._inbox = inbox
        self._usages: dict[str, Usage] = {}
        self._asks: dict[str, Callable[[], Awaitable[Usage]]] = {
            **{bucket.name: partial(_of_bucket, bucket) for bucket in buckets},
            ACCOUNT: self._of_account,
        }
        self._denied_until: dict[str, float] = {}

    @property
    def buckets(self) -> dict[str, Usage]:
        """The usage of each bucket, by its name."""
        return {name: usage for name, usage in self._usages.items() if name != ACCOUNT}

    @property
    def account(self) -> Usage | None:
        """The usage of the account; with tiers, of the one that is nearest to its limit."""
        return self._usages.get(ACCOUNT)

    async def watch(self) -> None:
        """Ask at once, and then once in each interval."""
        while True:
            await self.ask()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def ask(self) -> None:
        """Ask once for everything that is permitted, as far as is known."""
        now = time.monotonic()
        for name, ask in self._asks.items():
            if now < self._denied_until.get(name, 0.0):
                continue
            try:
                self._usages[name] = await ask()
            except NotPermitted:
                self._denied_until[name] = now + DENIED_SECONDS
                self._usages.pop(name, None)
            except BucketMissing:
                self._usages.pop(name, None)
            except StoreUnavailable:
                continue

    async def _of_account(self) -> Usage:
        account = jetstream.decode_account((await self._inbox.request("$JS.API.INFO")).data)
        if account.error:
            raise StoreUnavailable(account.error.description)
        tiers = account.tiers.values() or [account]
        return max(map(_of_tier, tiers), key=lambda usage: usage.stored / usage.limit)


async def _of_bucket(bucket: Bucket) -> Usage:
    info = await bucket.info()
    return Usage(info.state.bytes, _limit(info.config.max_bytes))


def _of_tier(tier: Tier) -> Usage:
    return Usage(tier.storage, _limit(tier.limits.max_storage))


def _limit(configured: int) -> float:
    return configured if configured > 0 else math.inf

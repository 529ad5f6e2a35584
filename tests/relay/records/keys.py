# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Requests with idempotency keys, as the tests of the store make them; `held` asserts that the key was free."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from relay import idempotency
from relay.idempotency import Repeat
from relay.records.idempotency_store import HeldKey
from shared.contract import SendEmailRequest

if TYPE_CHECKING:
    from relay.records.idempotency_store import IdempotencyStore

LONGEST_REQUEST: Final = timedelta(seconds=48)
IN_PROGRESS: Final = "request in progress"
UNKNOWN: Final = "delivery outcome unknown"
KEY: Final = "key"
STORED_UNDER: Final = idempotency.store_key(KEY)


async def begin(store: IdempotencyStore, key: str = KEY) -> HeldKey | Repeat:
    """One more request with this key."""
    request = SendEmailRequest(to="a@example.com", idempotency_key=key)
    begun = await store.begin(request, None, email_id=str(uuid4()), group_id="g")
    assert begun is not None
    return begun


async def held(store: IdempotencyStore, key: str = KEY) -> HeldKey:
    """The key, which is free."""
    begun = await begin(store, key)
    assert isinstance(begun, HeldKey), begun
    return begun


def repeat_of(first: HeldKey, error: str = "") -> Repeat:
    return Repeat(
        email_id=first.stored.email_id, group_id=first.stored.group_id, sent_at=first.stored.started_at, error=error
    )


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Waits until a server has processed what a client of nats-py has written before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.client import Client


async def flush(client: Client) -> None:
    """Return when subscriptions and messages have arrived.

    The first PING of nats-py may overtake them, as it is written at once and they wait for a task. The second may not.
    """
    await client.flush()
    await client.flush()

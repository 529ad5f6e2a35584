# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Counts the push events of a subscriber."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

DELIVERED = "lfx.email-service.email_delivered"
OPENED = "lfx.email-service.email_opened"
FAILED = "lfx.email-service.email_failed"


class Pushes:
    """The push events since `subscribe`, by subject and email."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def subscribe(self, client: Client) -> None:
        """Count from now on."""
        for subject in (DELIVERED, OPENED, FAILED):
            await client.subscribe(subject, cb=self._count)

    async def _count(self, msg: Msg) -> None:
        self.counts[f"{msg.subject} {json.loads(msg.data)['email_id']}"] += 1

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Relays and trackers that write records and groups, and the counts that a query has to return afterwards."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nats.js.errors import KeyNotFoundError

from shared import contract, group_index
from shared.contract import GetEmailEngagementAnalyticsResponse

if TYPE_CHECKING:
    from nats.js import JetStreamContext

RECORDS, INDEX = contract.EMAIL_RECIPIENTS_BUCKET, contract.EMAIL_GROUP_INDEX_BUCKET


class Writers:
    """Relays and trackers that write to both buckets past the proxy, with nats-py's own KV client."""

    def __init__(self, jetstream: JetStreamContext, seed: int) -> None:
        self._jetstream = jetstream
        self.chance = random.Random(seed)  # noqa: S311 - the same writes each time
        self.groups: dict[str, list[list[str]]] = {"g": [[]], "other group": [[]]}

    async def write(self) -> None:
        """Make one write of any kind."""
        group_id = self.chance.choice(list(self.groups))
        segments = self.groups[group_id]
        known = [email_id for ids in segments for email_id in ids]
        what = self.chance.choice(["send", "send", "send", "update", "update", "delete", "corrupt", "roll over"])
        if what == "send" or not known:
            await self.send(group_id)
        elif what == "update":
            await self._put(self.chance.choice(known), self._happened())
        elif what == "delete":
            await (await self._jetstream.key_value(RECORDS)).delete(self.chance.choice(known))
        elif what == "corrupt":
            await (await self._jetstream.key_value(RECORDS)).put(self.chance.choice(known), b"{")
        elif segments[-1]:
            segments.append([])

    async def send(self, group_id: str) -> None:
        """Write a record and its id in the index."""
        email_id = str(UUID(int=self.chance.getrandbits(128)))
        await self._put(email_id, {"delivered": False, "opened": False, "open_count": 0, "failed": False})
        segments = self.groups[group_id]
        segments[-1].append(email_id)
        key = group_index.segment_key(group_index.key_of(group_id), len(segments) - 1)
        index, value = await self._jetstream.key_value(INDEX), json.dumps(segments[-1]).encode()
        if segments[-1] == [email_id]:
            await index.put(key, value)
        else:
            await index.update(key, value, (await index.get(key)).revision)

    async def deliver(self, group_id: str) -> None:
        """Set the first email of a group to delivered."""
        opened = {"opened": False, "open_count": 0}
        await self._put(self.groups[group_id][0][0], {"delivered": True, "failed": False, **opened})

    async def recounted(self, group_id: str) -> GetEmailEngagementAnalyticsResponse:
        """Count in the plain way, by reading every record."""
        email_ids = [email_id for ids in self.groups[group_id] for email_id in ids]
        found = [record for email_id in email_ids if (record := await self._read(email_id))]
        return GetEmailEngagementAnalyticsResponse(
            group_id=group_id,
            total_sent=len(email_ids),
            delivered=sum(record["delivered"] for record in found),
            opened=sum(record["open_count"] for record in found),
            unique_opened=sum(record["opened"] for record in found),
            failed=sum(record["failed"] for record in found),
        )

    def _happened(self) -> dict[str, object]:
        opens = self.chance.randrange(3)
        yes = partial(self.chance.choice, [True, False])
        return {"delivered": yes(), "opened": opens > 0, "open_count": opens, "failed": yes()}

    async def _put(self, email_id: str, fields: dict[str, object]) -> None:
        ids = {"email_id": email_id, "group_id": "g", "to": "a@b.example", "subject": "s"}
        value = json.dumps({**ids, "sent_at": "2026-01-02T03:04:05Z", **fields}).encode()
        await (await self._jetstream.key_value(RECORDS)).put(email_id, value)

    async def _read(self, email_id: str) -> dict[str, Any] | None:
        try:
            entry = await (await self._jetstream.key_value(RECORDS)).get(email_id)
            record: dict[str, Any] = json.loads(entry.value or b"")
        except (KeyNotFoundError, ValueError):
            return None
        return record

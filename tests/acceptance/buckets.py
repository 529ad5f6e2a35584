# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The two KV buckets in the layout of the Go service, read and written with plain nats-py."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from nats.js.api import KeyValueConfig
from nats.js.errors import KeyNotFoundError

from tests.stack import bucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.client import Client
    from nats.js.kv import KeyValue

RECIPIENTS = "email-recipients"
GROUP_INDEX = "email-group-index"
LARGEST_RECORD = 64 * 1024
AT_ONCE = 500


class Buckets:
    """Both buckets; a test may delete and create them."""

    def __init__(self, client: Client) -> None:
        self._jetstream = client.jetstream(timeout=10)

    async def create(self, *, direct: bool = True, replicas: int = 1) -> None:
        """Create them as the relay's chart does."""
        for config in (
            KeyValueConfig(RECIPIENTS, history=1, max_value_size=LARGEST_RECORD, direct=direct, replicas=replicas),
            KeyValueConfig(GROUP_INDEX, history=1, direct=direct, replicas=replicas),
        ):
            await bucket.create(self._jetstream, config)

    async def delete(self) -> None:
        """Delete both with their content."""
        for name in (RECIPIENTS, GROUP_INDEX):
            await self._jetstream.delete_key_value(name)

    async def recipients(self) -> KeyValue:
        """Return the bucket of the records."""
        return await self._jetstream.key_value(RECIPIENTS)

    async def group_index(self) -> KeyValue:
        """Return the bucket of the groups."""
        return await self._jetstream.key_value(GROUP_INDEX)

    async def leader_of_group_index(self) -> str | None:
        """Return the name of the server that leads the bucket of the groups, in a cluster."""
        cluster = (await self._jetstream.stream_info(f"KV_{GROUP_INDEX}")).cluster
        return cluster.leader if cluster else None

    async def writes(self) -> list[int]:
        """Return the number of writes to each bucket."""
        infos = [await self._jetstream.stream_info(f"KV_{name}") for name in (RECIPIENTS, GROUP_INDEX)]
        return [info.state.last_seq for info in infos]

    async def record(self, email_id: str) -> dict[str, Any] | None:
        """Return the record of an email."""
        try:
            entry = await (await self.recipients()).get(email_id)
        except KeyNotFoundError:
            return None
        record: dict[str, Any] = json.loads(entry.value or b"")
        return record

    async def revision(self, email_id: str) -> int | None:
        """Return the revision of an email's record."""
        return (await (await self.recipients()).get(email_id)).revision

    async def records(self, email_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the records that exist."""
        found: list[dict[str, Any] | None] = []
        for start in range(0, len(email_ids), AT_ONCE):
            found += await asyncio.gather(*map(self.record, email_ids[start : start + AT_ONCE]))
        return [record for record in found if record]

    async def email_ids(self, key: str) -> list[str]:
        """Return the ids under a key of the group index."""
        try:
            entry = await (await self.group_index()).get(key)
        except KeyNotFoundError:
            return []
        email_ids: list[str] = json.loads(entry.value or b"")
        return email_ids

    async def put_records(self, *records: Mapping[str, Any]) -> None:
        """Write records under their ids."""
        await self.put_values({record["email_id"]: json.dumps(record).encode() for record in records})

    async def put_values(self, values: Mapping[str, bytes]) -> None:
        """Write any values into the bucket of the records."""
        bucket = await self.recipients()
        pairs = list(values.items())
        for start in range(0, len(pairs), AT_ONCE):
            await asyncio.gather(*(bucket.put(key, value) for key, value in pairs[start : start + AT_ONCE]))

    async def put_group(self, key: str, email_ids: Sequence[str]) -> None:
        """Write the ids of a group as one JSON array."""
        await (await self.group_index()).put(key, json.dumps(list(email_ids)).encode())


def fresh_record(email_id: str, group_id: str, **changes: Any) -> dict[str, Any]:
    """Return a record as the relay writes it, with changes."""
    return {
        "email_id": email_id,
        "group_id": group_id,
        "to": "ada@example.com",
        "subject": "Hello Ada",
        "sent_at": "2025-01-15T10:30:00Z",
        "delivered": False,
        "opened": False,
        "open_count": 0,
        "clicked": False,
        "click_count": 0,
        "failed": False,
    } | changes

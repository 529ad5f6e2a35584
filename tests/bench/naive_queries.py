# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The naive tracker of queries: one KV read per record with nats-py. `python -m tests.bench.naive_queries URL`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import nats

from shared import contract, group_index

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js.kv import KeyValue

STATUS = "bench.naive_status"
ANALYTICS = "bench.naive_analytics"
GROUP = "bench.naive_group"


class Queries:
    """Answers as the service does, with one read after the other."""

    def __init__(self, recipients: KeyValue, index: KeyValue) -> None:
        self._recipients = recipients
        self._index = index

    async def status(self, msg: Msg) -> None:
        """Answer with one record."""
        await msg.respond(json.dumps(await self._record(json.loads(msg.data)["email_id"])).encode())

    async def analytics(self, msg: Msg) -> None:
        """Answer with counts."""
        request = json.loads(msg.data)
        records = await self._records(request)
        counts = {
            "total_sent": len(records),
            "delivered": sum(record["delivered"] for record in records),
            "opened": sum(record["open_count"] for record in records),
            "unique_opened": sum(record["opened"] for record in records),
            "failed": sum(record["failed"] for record in records),
        }
        await msg.respond(json.dumps({"group_id": request["group_id"], **counts}).encode())

    async def group(self, msg: Msg) -> None:
        """Answer with the records of a group, or a page of them."""
        await msg.respond(json.dumps(await self._records(json.loads(msg.data))).encode())

    async def _records(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        start = request.get("offset", 0)
        end = start + request["limit"] if "limit" in request else None
        email_ids = await self._email_ids(group_index.key_of(request["group_id"]))
        return [await self._record(email_id) for email_id in email_ids[start:end]]

    async def _record(self, email_id: str) -> dict[str, Any]:
        entry = await self._recipients.get(email_id)
        record: dict[str, Any] = json.loads(entry.value or b"{}")
        return record

    async def _email_ids(self, key: str) -> list[str]:
        """Read one segment after the other."""
        email_ids: list[str] = []
        segment = group_index.FIRST
        while True:
            try:
                entry = await self._index.get(group_index.segment_key(key, segment))
            except nats.js.errors.KeyNotFoundError:
                return email_ids
            email_ids += json.loads(entry.value or b"[]")
            segment += 1


async def main(url: str) -> None:
    """Serve until killed."""
    client = await nats.connect(url, max_outstanding_pings=100)
    jetstream = client.jetstream()
    queries = Queries(
        await jetstream.key_value(contract.EMAIL_RECIPIENTS_BUCKET),
        await jetstream.key_value(contract.EMAIL_GROUP_INDEX_BUCKET),
    )
    await client.subscribe(STATUS, cb=queries.status)
    await client.subscribe(ANALYTICS, cb=queries.analytics)
    await client.subscribe(GROUP, cb=queries.group)
    await client.flush()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

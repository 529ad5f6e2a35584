# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Status from a bucket whose records expire. See also tests/acceptance/test_get_email_status.py."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from nats.js.api import KeyValueConfig

from shared import contract, group_index
from shared.kv.bucket import Bucket
from tests.tracker.examples import EMAIL, record
from tracker.events import records
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader

if TYPE_CHECKING:
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

STREAM = f"KV_{contract.EMAIL_RECIPIENTS_BUCKET}"
RECORD = records.encode(record())


async def test_an_expired_record_is_not_found_and_does_not_hide_others(
    connection: Connection, inbox: Inbox, index: Bucket
) -> None:
    js = connection.client.jetstream()
    await js.create_key_value(KeyValueConfig(contract.EMAIL_RECIPIENTS_BUCKET, limit_marker_ttl=60.0, direct=True))
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
    await js.publish(f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}.expired", RECORD, headers={"Nats-TTL": "1s"})
    await recipients.create("corrupt", b"{")
    await recipients.create(EMAIL, RECORD)
    async with asyncio.timeout(10):
        while (await js.stream_info(STREAM)).state.last_seq < 4:  # the marker that the server leaves
            await asyncio.sleep(0.05)
    await index.create("g", group_index.encode(["expired", "corrupt", EMAIL]))
    handler = EmailStatusHandler(recipients, GroupReader(recipients, index), connection.payload_limit)

    async def status(**request: str) -> Any:
        return json.loads(await handler(json.dumps(request).encode()))

    assert await status(email_id="expired") == {"error": contract.NOT_FOUND}
    assert await status(group_id="g") == [json.loads(RECORD)]

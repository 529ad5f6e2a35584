# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Status by both ids, and from a bucket whose records expire. See also tests/acceptance/test_get_email_status.py."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import KeyValueConfig

from shared import contract, group_index
from shared.kv.bucket import Bucket
from tests.stack.waiting import until
from tests.tracker.examples import EMAIL, GROUP, record
from tracker.events import records
from tracker.queries import email_status_handler
from tracker.queries.email_status_handler import EmailStatusHandler
from tracker.queries.group_reader import GroupReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from shared.contract import EmailRecipientRecord
    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox

STREAM = f"KV_{contract.EMAIL_RECIPIENTS_BUCKET}"
RECORD = records.encode(record())


OTHER = "0b9f5f53-7f0b-4b52-9f4b-3a4a3c0a8f10"


@pytest.mark.parametrize("by_both_ids", [False, True])
async def test_a_query_by_both_ids_is_answered_only_with_the_setting(
    recipients: Bucket, index: Bucket, connection: Connection, *, by_both_ids: bool
) -> None:
    await recipients.create(EMAIL, RECORD)
    await recipients.create("corrupt", b"{")
    groups = GroupReader(recipients, index)
    handler = EmailStatusHandler(recipients, groups, connection.payload_limit, by_both_ids=by_both_ids)

    async def status(email_id: str, group_id: str | None, **page: object) -> Any:
        return json.loads(await handler(json.dumps({"email_id": email_id, "group_id": group_id, **page}).encode()))

    only_one, not_found, found = {"error": contract.ONLY_ONE_ID}, {"error": contract.NOT_FOUND}, json.loads(RECORD)
    assert await status(EMAIL, GROUP) == (found if by_both_ids else only_one)
    assert await status(f" {EMAIL.upper()} ", GROUP, offset=-1) == (found if by_both_ids else only_one)
    for email_id, group_id in ((EMAIL, "other"), (EMAIL, GROUP.upper()), (EMAIL, "\0"), (OTHER, GROUP), (" ", GROUP)):
        assert await status(email_id, group_id) == (not_found if by_both_ids else only_one)
    assert await status("corrupt", GROUP) == ({"error": contract.INTERNAL_ERROR} if by_both_ids else only_one)
    for no_group in (None, ""):
        assert await status(EMAIL, no_group) == found
        assert await status(OTHER, no_group) == not_found


async def test_an_expired_record_is_not_found_and_does_not_hide_others(
    connection: Connection, inbox: Inbox, index: Bucket
) -> None:
    js = connection.client.jetstream()
    await js.create_key_value(KeyValueConfig(contract.EMAIL_RECIPIENTS_BUCKET, limit_marker_ttl=60.0, direct=True))
    recipients = Bucket(inbox, connection, contract.EMAIL_RECIPIENTS_BUCKET)
    await js.publish(f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}.expired", RECORD, headers={"Nats-TTL": "1s"})
    await recipients.create("corrupt", b"{")
    await recipients.create(EMAIL, RECORD)
    async with asyncio.timeout(30):
        while (await js.stream_info(STREAM)).state.last_seq < 4:  # the marker that the server leaves
            await asyncio.sleep(0.05)
    await index.create("g", group_index.encode(["expired", "corrupt", EMAIL]))
    handler = EmailStatusHandler(recipients, GroupReader(recipients, index), connection.payload_limit)

    async def status(**request: str) -> Any:
        return json.loads(await handler(json.dumps(request).encode()))

    assert await status(email_id="expired") == {"error": contract.NOT_FOUND}
    assert await status(group_id="g") == [json.loads(RECORD)]


class Watched(GroupReader):
    """Notes how many pages are read at once; the reads of the group `large` wait."""

    def __init__(self, recipients: Bucket, index: Bucket) -> None:
        super().__init__(recipients, index)
        self.resumed = asyncio.Event()
        self.reading: Counter[int] = Counter()
        self.most: Counter[int] = Counter()

    async def records(self, email_ids: Sequence[str]) -> AsyncIterator[list[EmailRecipientRecord]]:
        """Read, and count it."""
        size = len(email_ids)
        self.reading[size] += 1
        self.most[size] = max(self.most[size], self.reading[size])
        if size > email_status_handler.SMALL_PAGE:
            await self.resumed.wait()
        async for some in super().records(email_ids):
            yield some
        self.reading[size] -= 1


async def test_few_pages_are_read_at_once_and_small_ones_do_not_wait_for_large_ones(
    recipients: Bucket, index: Bucket, connection: Connection
) -> None:
    size = email_status_handler.SMALL_PAGE + 1
    await index.create("large", group_index.encode([str(number) for number in range(size)]))
    await index.create("small", group_index.encode([EMAIL]))
    await recipients.create(EMAIL, RECORD)
    reader = Watched(recipients, index)
    handler = EmailStatusHandler(recipients, reader, connection.payload_limit)
    large = [asyncio.create_task(handler(b'{"group_id":"large"}')) for _ in range(20)]
    await until(lambda: reader.reading[size], lambda reading: reading == email_status_handler.LARGE_PAGES_AT_ONCE)
    small = await asyncio.gather(*(handler(b'{"group_id":"small"}') for _ in range(20)))
    part = await handler(b'{"group_id":"large","offset":1}')
    reader.resumed.set()
    assert small == [b"[" + RECORD + b"]"] * 20
    assert {part, *await asyncio.gather(*large)} == {b"[]"}
    assert reader.most[size] == email_status_handler.LARGE_PAGES_AT_ONCE
    assert reader.most[1] <= email_status_handler.SMALL_PAGES_AT_ONCE

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The buckets of one test, created, read and broken with the KV client of nats-py."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import nats
import nats.js.errors
from nats.js.api import KeyValueConfig

from shared import group_index
from shared.kv.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext
    from nats.js.kv import KeyValue

    from shared.nats.connection import Connection
    from shared.nats.inbox import Inbox


class Buckets:
    """A bucket for records and one for the group index, under names of their own."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        suffix = uuid4().hex
        self.recipients_name = f"recipients-{suffix}"
        self.group_index_name = f"group-index-{suffix}"
        self._jetstream = jetstream

    @classmethod
    @asynccontextmanager
    async def created(cls, url: str) -> AsyncIterator[Buckets]:
        """Create them, and delete them afterwards."""
        async with await nats.connect(url) as client:
            buckets = cls(client.jetstream())
            await buckets.make()
            yield buckets
            await buckets.delete()

    async def make(self, *, max_value_size: int | None = None) -> None:
        """Create both, as the chart does."""
        for name in (self.recipients_name, self.group_index_name):
            limit = max_value_size if name == self.group_index_name else None
            config = KeyValueConfig(name, max_value_size=limit, direct=True)
            while (await (await self._jetstream.create_key_value(config)).status()).stream_info.state.last_seq:
                # nats-server 2.15.1 under load: a stream that was just deleted comes back with its messages
                await self._jetstream.delete_key_value(name)

    async def set_limit(self, max_value_size: int) -> None:
        """Change the limit for the values of the group index, as an operator does; -1 for none."""
        config = (await self._jetstream.stream_info(f"KV_{self.group_index_name}")).config
        config.max_msg_size = max_value_size
        await self._jetstream.update_stream(config)

    async def delete(self) -> None:
        """Delete both with their content, if they exist."""
        for name in (self.recipients_name, self.group_index_name):
            try:
                await self._jetstream.delete_key_value(name)
            except nats.js.errors.NotFoundError:
                continue

    def recipients(self, inbox: Inbox, connection: Connection) -> Bucket:
        """The records as the relay sees them."""
        return Bucket(inbox, connection, self.recipients_name)

    def group_index(self, inbox: Inbox, connection: Connection) -> Bucket:
        """The group index as the relay sees it."""
        return Bucket(inbox, connection, self.group_index_name)

    async def put_segment(self, group_id: str, segment: int, value: bytes) -> None:
        """Write a segment by hand."""
        bucket = await self._group_index()
        await bucket.put(_segment_key(group_id, segment), value)

    async def segment(self, group_id: str, segment: int) -> bytes:
        """The value of a segment, empty if it does not exist."""
        bucket = await self._group_index()
        try:
            return (await bucket.get(_segment_key(group_id, segment))).value or b""
        except nats.js.errors.KeyNotFoundError:
            return b""

    async def delete_segment(self, group_id: str, segment: int) -> None:
        """Delete a segment by hand."""
        await (await self._group_index()).delete(_segment_key(group_id, segment))

    async def ids(self, group_id: str) -> list[str]:
        """All ids of a group in order; a corrupt segment counts as empty."""
        found: list[str] = []
        number = 0
        while value := await self.segment(group_id, number):
            with suppress(ValueError):
                found += json.loads(value)
            number += 1
        return found

    async def record(self, email_id: str) -> dict[str, object] | None:
        """The record under an id."""
        bucket = await self._jetstream.key_value(self.recipients_name)
        try:
            value: dict[str, object] = json.loads((await bucket.get(email_id)).value or b"null")
        except nats.js.errors.KeyNotFoundError:
            return None
        return value

    async def _group_index(self) -> KeyValue:
        return await self._jetstream.key_value(self.group_index_name)


def _segment_key(group_id: str, segment: int) -> str:
    return group_index.segment_key(group_index.key_of(group_id), segment)

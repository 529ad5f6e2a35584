# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Writers of a group index and the ids that they append; asserts nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from shared import group_index
from shared.errors import StoreUnavailable
from shared.index_writer import IndexWriter
from shared.nats import connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack.nats_proxy import js_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.relay.kv import Buckets
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer


WRONG_LAST_SEQUENCE = (10071, 10164)
CONFLICT = js_error(400, 10071, "wrong last sequence: 1")


@asynccontextmanager
async def another_writer(nats_server: NatsServer, buckets: Buckets) -> AsyncIterator[IndexWriter]:
    """The writer of another relay, with a connection of its own."""
    async with (
        connection.opened(ProcessSettings(nats_url=nats_server.url), "another") as opened,
        Inbox(opened) as inbox,
    ):
        yield IndexWriter(buckets.group_index(inbox, opened))


def new_ids(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


def full(segment: int) -> list[str]:
    """As many ids as a segment holds."""
    return new_ids(group_index.capacity(segment))


async def append_all(writer: IndexWriter, group_id: str, ids: list[str]) -> None:
    """Append at once."""
    await asyncio.gather(*(writer.append(group_id, one) for one in ids))


async def append_until_done(writer: IndexWriter, group_id: str, email_id: str) -> None:
    """Append as the record writer does."""
    again = False
    while True:
        try:
            await writer.append(group_id, email_id, again=again)
        except StoreUnavailable:
            again = True
        else:
            return


def writes(proxy: NatsProxy, buckets: Buckets) -> int:
    """How often a write of a segment was tried."""
    return sum(subject.startswith(f"$KV.{buckets.group_index_name}.") for subject in proxy.published)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Lists the emails to one address, for `status --to`. Reads the bucket of the records, not the running tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared import contract
from shared.commands import command, progress
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan
from shared.nats.inbox import Inbox
from tracker.commands.recipient_search import RecipientSearch
from tracker.errors import RecordCorrupt
from tracker.events import records

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from shared.contract import EmailRecipientRecord
    from shared.kv.scan import Stored

MAX_SORTED_BYTES: Final = 16_000_000


class _InSendOrder:
    """Shows records in send order; a large number of them in several runs, so that the memory is limited."""

    def __init__(self, show: Callable[[EmailRecipientRecord], None]) -> None:
        self.shown = 0
        self._show = show
        self._kept: list[tuple[datetime, str, bytes]] = []
        self._bytes = 0

    def add(self, record: EmailRecipientRecord, stored: Stored) -> None:
        self._kept.append((record.sent_at, stored.key, stored.value))
        self._bytes += len(stored.value)
        if self._bytes >= MAX_SORTED_BYTES:
            self.flush()

    def flush(self) -> None:
        for _, _, value in sorted(self._kept):
            self._show(records.decode(value))
        self.shown += len(self._kept)
        self._kept, self._bytes = [], 0


async def show_all(
    name: str, address: str, since: datetime | None, show: Callable[[EmailRecipientRecord], None]
) -> int:
    """Call `show` with each record of an email to the address that was sent at `since` or later.

    Returns the number of these emails.

    Raises:
        Failed: some records cannot be read.
        BucketMissing: there is no bucket.
    """
    search, shown = RecipientSearch(address), _InSendOrder(show)
    async with command.connected(name) as caller, Inbox(caller.connection) as inbox:
        bucket = Bucket(inbox, caller.connection, contract.EMAIL_RECIPIENTS_BUCKET)
        await bucket.info()
        async with BucketScan(caller.connection, inbox, bucket) as scan:
            async for page in progress.pages(scan, lambda: f"{search.found:,} found"):
                for stored in search.select(page):
                    try:
                        record = records.decode(stored.value)
                    except RecordCorrupt:
                        search.unreadable.append(stored.key)
                        continue
                    if since is None or record.sent_at >= since:
                        shown.add(record, stored)
    shown.flush()
    if search.unreadable:
        raise command.Failed(f"records that cannot be read: {', '.join(search.unreadable)}")
    return shown.shown

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Writes the record of a sent email, then its place in the group. Keeps and retries what KV could not take."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from shared import redaction
from shared.errors import KeyTaken, StoreError, StoreUnavailable, ValueTooLarge

if TYPE_CHECKING:
    from relay.records.index_writer import IndexWriter
    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket

log = logging.getLogger(__name__)

MAX_KEPT: Final = 20_000  # records of about 1 kB, kept while KV is away
RETRIED_AT_ONCE: Final = 64
LEAST_PATIENCE_SECONDS: Final = 1.0
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
FLUSH_SECONDS: Final = 10.0

_encode = msgspec.json.Encoder().encode


class _Kept(NamedTuple):
    record: EmailRecipientRecord
    stored: asyncio.Future[None]


class RecordWriter:
    """Stores records; what cannot be stored now is kept in memory and stored later."""

    def __init__(self, recipients: Bucket, index: IndexWriter) -> None:
        """Write records to `recipients` and their ids to `index`."""
        self._recipients = recipients
        self._index = index
        self._kept: dict[str, _Kept] = {}
        self._something_kept = asyncio.Event()
        self.stored_late = self.lost = 0
        self._retrying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start to retry what is kept."""
        self._retrying = asyncio.create_task(self._retry_for_ever())
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Store what is still kept, if KV takes it in time (none is left after an error); log each id that is lost."""
        assert self._retrying, "entered"
        try:
            if self._kept and error is None:
                log.info("records.flushing", extra={"kept": len(self._kept)})
                await asyncio.wait([kept.stored for kept in self._kept.values()], timeout=FLUSH_SECONDS)
        finally:
            self._retrying.cancel()
            for kept in self._kept.values():
                self._lose(kept.record)

    @property
    def kept(self) -> int:
        """How many records KV has not taken yet."""
        return len(self._kept)

    @property
    def has_room(self) -> bool:
        """Whether one more record could be kept if KV did not take it."""
        return len(self._kept) < MAX_KEPT

    async def write(self, record: EmailRecipientRecord, *, deadline: float) -> None:
        """Return once the record is stored; at `deadline` (loop time) at the latest, and then it is kept."""
        deadline = max(deadline, _now() + LEAST_PATIENCE_SECONDS)
        try:
            async with asyncio.timeout_at(deadline):
                await self._store(record, again=False)
        except (StoreError, TimeoutError) as error:
            await self._keep(record, error, deadline)
        except asyncio.CancelledError:
            self._lose(record)
            raise

    async def _store(self, record: EmailRecipientRecord, *, again: bool) -> None:
        try:
            await self._create(record)
            await self._index.append(record.group_id, record.email_id, again=again)
        except ValueTooLarge as error:  # and will be so tomorrow
            self.lost += 1
            log.error("record.too_large", extra={"email_id": record.email_id, "error": str(error)})
        except StoreError:
            raise
        except Exception as error:  # of one record: the others are still to be retried
            log.exception("record.failed", extra={"email_id": record.email_id})
            raise StoreUnavailable(f"unforeseen: {type(error).__name__}") from error

    async def _create(self, record: EmailRecipientRecord) -> None:
        try:
            await self._recipients.create(record.email_id, _encode(record))
        except KeyTaken:  # ids are unique: an earlier try of ours got through, and the tracker may have written since
            log.debug("record.taken", extra={"email_id": record.email_id})

    async def _keep(self, record: EmailRecipientRecord, error: Exception, deadline: float) -> None:
        why = str(error) or "not stored within the request's time"
        log.warning("record.kept", extra={"email_id": record.email_id, "error": why, "kept": len(self._kept) + 1})
        kept = self._kept[record.email_id] = _Kept(record, asyncio.get_running_loop().create_future())
        self._something_kept.set()
        await asyncio.wait([kept.stored], timeout=max(0, deadline - _now()))

    def _lose(self, record: EmailRecipientRecord) -> None:
        self.lost += 1
        group_id = redaction.identifier(record.group_id)
        log.error("record.lost", extra={"email_id": record.email_id, "group_id": group_id})

    async def _retry_for_ever(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._something_kept.wait()
            oldest = list(self._kept.values())[:RETRIED_AT_ONCE]
            stored = await asyncio.gather(*(self._retry(kept) for kept in oldest))
            if not self._kept:
                self._something_kept.clear()
            if all(stored):
                pause = FIRST_PAUSE_SECONDS
                continue
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _retry(self, kept: _Kept) -> bool:
        try:
            await self._store(kept.record, again=True)
        except StoreError as error:
            log.debug("record.retry_failed", extra={"email_id": kept.record.email_id, "error": str(error)})
            return False
        del self._kept[kept.record.email_id]
        kept.stored.set_result(None)
        self.stored_late += 1
        log.info("record.stored_late", extra={"email_id": kept.record.email_id, "kept": len(self._kept)})
        return True


class NoRecords:
    """The sibling for EMAIL_ENABLED=false: what was not sent leaves no record."""

    has_room = True

    async def write(self, record: EmailRecipientRecord, *, deadline: float) -> None:
        """Do nothing."""


def _now() -> float:
    return asyncio.get_running_loop().time()

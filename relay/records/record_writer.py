# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Writes the record of a sent email, then adds it to the group index. Keeps and retries what KV cannot store.

A record that is written late is erased at once if its recipient's records were erased meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from shared import redaction
from shared.erasure import Erasures
from shared.errors import KeyTaken, StoreError, StoreUnavailable, ValueTooLarge
from shared.service.time_limits import TimeLimits

if TYPE_CHECKING:
    from shared.contract import EmailRecipientRecord
    from shared.index_writer import IndexWriter
    from shared.kv.bucket import Bucket

log = logging.getLogger(__name__)

MAX_KEPT: Final = 20_000  # records of about 1 kB, kept while KV does not answer
RETRIED_AT_ONCE: Final = 64
LEAST_PATIENCE_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 10.0

_encode = msgspec.json.Encoder().encode


class _Kept(NamedTuple):
    record: EmailRecipientRecord
    stored: asyncio.Future[None]


class RecordWriter:
    """Stores records; those that cannot be stored now are kept in memory and stored later."""

    def __init__(self, recipients: Bucket, index: IndexWriter) -> None:
        """Write records to `recipients` and their ids to `index`."""
        self._recipients = recipients
        self._erasures = Erasures(recipients)
        self._index = index
        self._limits = TimeLimits()
        self._kept: dict[str, _Kept] = {}
        self._any_kept = asyncio.Event()
        self.stored_late = self.lost = 0
        self._retrying: asyncio.Task[None] | None = None
        self._is_closing = False

    async def __aenter__(self) -> Self:
        """Start to retry kept records."""
        self._ensure_retries()
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Store the kept records, if KV does so in time and no error ended the context; log the ids of the rest."""
        assert self._retrying, "entered"
        try:
            if self._kept and error is None:
                log.info("records.flushing", extra={"kept": len(self._kept)})
                self._ensure_retries()
                await asyncio.wait([kept.stored for kept in self._kept.values()], timeout=FLUSH_SECONDS)
        finally:
            self._is_closing = True
            self._retrying.cancel()
            for kept in self._kept.values():
                self._lose(kept.record)

    @property
    def kept(self) -> int:
        """How many records are not stored yet."""
        return len(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether one more record could not be kept if KV did not store it."""
        return len(self._kept) >= MAX_KEPT

    async def write(self, record: EmailRecipientRecord, *, deadline: float, again: bool = False) -> None:
        """Return when the record is stored, or at `deadline` (of `time.monotonic`): then it is kept and stored later.

        With `again` it may be stored already: then only what is missing of record and group index is written.
        """
        deadline = max(deadline, time.monotonic() + LEAST_PATIENCE_SECONDS)
        try:
            with self._limits.until(deadline):
                await self._store(record, again=again)
        except (StoreError, TimeoutError) as error:
            await self._keep(record, error, deadline)
        except asyncio.CancelledError:
            self._lose(record)
            raise

    async def _store(self, record: EmailRecipientRecord, *, again: bool) -> None:
        try:
            is_new = await self._create(record)
            if again:
                await self._erasures.erase_if_noted(record)
            await self._index.append(record.group_id, record.email_id, again=again or not is_new)
        except ValueTooLarge as error:  # now and at every later try
            self.lost += 1
            log.error("record.too_large", extra={"email_id": record.email_id, "error": str(error)})
        except StoreError:
            raise
        except Exception as error:  # retrying the other records must go on
            log.exception("record.failed", extra={"email_id": record.email_id})
            raise StoreUnavailable(f"unexpected {type(error).__name__}") from error

    async def _create(self, record: EmailRecipientRecord) -> bool:
        """Store the record; return whether it was missing.

        Ids are unique: one that is taken was stored by an earlier try, or the tracker has rebuilt it from an event.
        """
        try:
            await self._recipients.create(record.email_id, _encode(record))
        except KeyTaken:
            log.debug("record.taken", extra={"email_id": record.email_id})
            return False
        return True

    async def _keep(self, record: EmailRecipientRecord, error: Exception, deadline: float) -> None:
        why = str(error) or "not stored within the request's time"
        log.warning("record.kept", extra={"email_id": record.email_id, "error": why, "kept": len(self._kept) + 1})
        kept = self._kept.setdefault(record.email_id, _Kept(record, asyncio.get_running_loop().create_future()))
        self._any_kept.set()
        self._ensure_retries()
        await asyncio.wait([kept.stored], timeout=max(0, deadline - time.monotonic()))

    def _lose(self, record: EmailRecipientRecord) -> None:
        self.lost += 1
        group_id = redaction.identifier(record.group_id)
        log.error("record.lost", extra={"email_id": record.email_id, "group_id": group_id})

    def _ensure_retries(self) -> None:
        if self._retrying is None or self._retrying.done():
            self._retrying = asyncio.create_task(self._retry_kept())
            self._retrying.add_done_callback(self._end_retries)

    def _end_retries(self, _: object) -> None:
        """Start the retries again if their task was cancelled: no email may be sent that would start them."""
        if not self._is_closing:
            self._ensure_retries()

    async def _retry_kept(self) -> None:
        while True:
            await self._any_kept.wait()
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Exception), wait=wait_random_exponential(multiplier=0.1, max=5)
            ):
                with attempt:
                    await self._retry_some()

    async def _retry_some(self) -> None:
        """Retry those that were not tried for the longest time.

        Raises:
            StoreUnavailable: some were not stored. They come last, so that they do not hold up the others.
        """
        tried = list(itertools.islice(self._kept.values(), RETRIED_AT_ONCE))
        errors = await asyncio.gather(*(self._retry(kept) for kept in tried), return_exceptions=True)
        failures = [(kept, error) for kept, error in zip(tried, errors, strict=True) if error is not None]
        for kept, error in failures:
            log.debug("record.retry_failed", extra={"email_id": kept.record.email_id, "error": str(error)})
            self._kept.pop(kept.record.email_id, None)
            self._kept[kept.record.email_id] = kept
        if not self._kept:
            self._any_kept.clear()
        if failures:
            raise StoreUnavailable(f"{len(failures)} records were not stored")

    async def _retry(self, kept: _Kept) -> None:
        await self._store(kept.record, again=True)
        del self._kept[kept.record.email_id]
        kept.stored.set_result(None)
        self.stored_late += 1
        log.info("record.stored_late", extra={"email_id": kept.record.email_id, "kept": len(self._kept)})


class DisabledRecordWriter:
    """Used with EMAIL_ENABLED=false: an email that is not sent has no record."""

    is_full = False

    async def write(self, record: EmailRecipientRecord, *, deadline: float, again: bool = False) -> None:
        """Do nothing."""

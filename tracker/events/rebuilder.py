# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Makes the missing record of an email from one of its events, and puts the email into its group.

The record is created first, with a mark. The mark is removed when the index has the id, so that after a crash the next
event completes what is missing. A record or an index entry that another process writes meanwhile stays as it is.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from shared import decoding, group_index, redaction
from shared.contract import Timestamp  # noqa: TC001 - msgspec reads the annotation
from shared.erasure import Erasures
from shared.errors import KeyMissing
from shared.index_writer import IndexWriter
from tracker.events import rebuilt_record, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.contract import EmailRecipientRecord
    from shared.kv.bucket import Bucket
    from tracker.events.ses_event import EngagementEvent

log = logging.getLogger(__name__)

CLOCK_DIFFERENCE: Final = timedelta(hours=1)  # of the clocks of relay and SES, at most
NEVER: Final = datetime.min.replace(tzinfo=UTC)
ALWAYS: Final = datetime.max.replace(tzinfo=UTC) - CLOCK_DIFFERENCE

NO_GROUP: Final = "the record is missing, and no event names the group"
DELETED: Final = "the record was deleted"
REMOVED: Final = "the record is missing; it is as old as those that retention removed from the group"
EXPIRED: Final = "the record is missing; it is older than the TTL of the bucket"


class _Seal(msgspec.Struct, frozen=True):
    """The part of a seal (tracker/queries/seal.py) that tells how old the removed emails were."""

    before: Timestamp | None = None


_decode_seal = decoding.decoder(_Seal)


class NotRebuilt(Exception):
    """The record cannot or must not be made; the message is the reason."""


class Rebuilder:
    """Rebuilds records in one bucket and their places in the other. Any number may do so at once."""

    def __init__(self, recipients: Bucket, index: Bucket) -> None:
        """Create records in `recipients` and append their ids to `index`."""
        self._recipients = recipients
        self._index = index
        self._writer = IndexWriter(index)
        self._erasures = Erasures(recipients)
        self.rebuilt = 0

    async def rebuild(self, email_id: str, events: Sequence[EngagementEvent]) -> bool:
        """Create the record of an email, without its events, unless it exists; return whether it was missing.

        Raises:
            NotRebuilt: no event describes the email, or the record was removed on purpose.
            RevisionConflict: another process has created it meanwhile.
            StoreUnavailable: KV did not answer.
            ValueTooLarge: the record, or one id in the index, is over the limit.
        """
        record = await self.missing(email_id, events)
        if record is None:
            return False
        await self._recipients.update(email_id, records.encode_ungrouped(record), 0)
        self.rebuilt += 1
        log.info("record.rebuilt", extra={"email_id": email_id, "group_id": redaction.identifier(record.group_id)})
        await self.group(record)
        return True

    async def missing(self, email_id: str, events: Sequence[EngagementEvent]) -> EmailRecipientRecord | None:
        """Return the record that has to be made; None if the email has one. Raises NotRebuilt and StoreUnavailable."""
        try:
            await self._recipients.get_from_leader(email_id)
        except KeyMissing as missing:
            if missing.revision:
                raise NotRebuilt(DELETED) from missing
        else:
            return None
        record = next(filter(None, map(rebuilt_record.of_event, events)), None)
        if record is None:
            raise NotRebuilt(NO_GROUP)
        ttl = await self._recipients.ttl_seconds()
        if ttl and record.sent_at < datetime.now(UTC) - timedelta(seconds=ttl):
            raise NotRebuilt(EXPIRED)
        if await self._was_removed(record):
            raise NotRebuilt(REMOVED)
        return record

    async def group(self, record: EmailRecipientRecord) -> None:
        """Put the email of a marked record into its group, and remove the mark. Erase the record of an erased address.

        Raises the same errors, without NotRebuilt.
        """
        await self._erasures.erase_if_noted(record)
        await self._writer.append(record.group_id, record.email_id, again=True)
        await self._recipients.rewrite(record.email_id, lambda value: (records.grouped(value), None))

    async def ensure_grouped(self, record: EmailRecipientRecord) -> None:
        """Put the email of a record into its group if it is missing there, unless retention is removing it.

        Raises the same errors.
        """
        if not await self._was_removed(record):
            await self._writer.append(record.group_id, record.email_id, again=True)

    async def _was_removed(self, record: EmailRecipientRecord) -> bool:
        """Return whether retention may have removed the email, so that the seal of its segment counts it.

        An id that is listed was not removed: it leaves its segment before the record is deleted.
        """
        key = group_index.key_of(record.group_id)
        before = max([_before(key, value) for value in await self._seals(key)], default=NEVER)
        if record.sent_at >= before + CLOCK_DIFFERENCE:
            return False
        return not await self._writer.holds(record.group_id, record.email_id)

    async def _seals(self, key: str) -> list[bytes]:
        found = await self._index.get_matching(group_index.seals(key))
        if found is not None:
            return [entry.value for entry in found.values()]
        seals: list[bytes] = []
        segment = group_index.FIRST
        while True:  # one by one: a seal may be there without its segment
            values = [
                await self._index.find(of(key, segment)) for of in (group_index.seal_key, group_index.segment_key)
            ]
            if values == [None, None]:
                return seals
            seals += filter(None, values[:1])
            segment += 1


def _before(key: str, seal: bytes) -> datetime:
    """Return the time before which removed emails had their last activity; of an unreadable seal, the end of time."""
    try:
        return _decode_seal(seal).before or NEVER
    except decoding.Malformed:
        log.warning("seal.corrupt", extra={"key": redaction.identifier(key)})
        return ALWAYS

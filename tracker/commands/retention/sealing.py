# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Removes emails from a segment of a group's index and from the records, without a change of the group's counts.

tracker/queries/seal.py explains the steps. A step that is written into a seal is always carried out, by any run that
finds it: each part of it can be repeated, and is written on the revision that was read. So runs may be killed at any
point, and may run at the same time. All of this is correct only because an id that has left a segment never comes back
into it: its email would be counted twice, in the seal and as one of the segment.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from msgspec.structs import replace
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shared import decoding, group_index
from shared.errors import BucketMissing, KeyMissing, NotPermitted, RevisionConflict, StoreUnavailable
from tracker.commands.retention import activity
from tracker.errors import IndexCorrupt
from tracker.queries import counts, seal
from tracker.queries.seal import Leaving, Seal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from shared.kv.bucket import Entry

STEP_EMAILS: Final = 1000
LEAVING_BYTES: Final = 128  # of an email in a seal, at most, without its id
SMALL_GROUP: Final = 100  # emails; a group that never had more has one segment only, at any limit of the bucket
DELETES_AT_ONCE: Final = 64
PATIENCE_SECONDS: Final = 30.0


class Store(Protocol):
    """The part of `Bucket` that is needed."""

    async def max_value_bytes(self) -> int: ...  # noqa: D102
    async def get_from_leader(self, key: str) -> Entry: ...  # noqa: D102
    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]: ...  # noqa: D102
    async def update(self, key: str, value: bytes, revision: int) -> int: ...  # noqa: D102
    async def delete(self, key: str, revision: int) -> None: ...  # noqa: D102


class Place(NamedTuple):
    """A segment: the key of its group, and its number."""

    key: str
    number: int

    @property
    def segment_key(self) -> str:
        """The key of the segment."""
        return group_index.segment_key(self.key, self.number)

    @property
    def seal_key(self) -> str:
        """The key of its seal."""
        return group_index.seal_key(self.key, self.number)


class _Written(NamedTuple):
    """A seal as it is stored; revision 0 if it does not exist."""

    seal: Seal
    revision: int


class Sealing:
    """Removes emails without activity since `before`."""

    def __init__(
        self, recipients: Store, index: Store, before: datetime, on_removed: Callable[[Place, int], None]
    ) -> None:
        """Work on both buckets; call `on_removed` for each step that is complete, with the number of its emails."""
        self._recipients = recipients
        self._index = index
        self._before = before
        self._on_removed = on_removed
        self._deletes = asyncio.Semaphore(DELETES_AT_ONCE)

    def is_due(self, value: bytes) -> bool:
        """Return whether this is the record of an email that has to go."""
        known = activity.of_record(value)
        return known is not None and known.last_at < self._before

    async def remove(self, place: Place, email_ids: Sequence[str]) -> None:
        """Remove those of the emails that are due. They must be in no other segment of the group.

        Raises:
            IndexCorrupt: the segment or its seal cannot be read.
            RevisionConflict: others kept changing them for PATIENCE_SECONDS.
            StoreUnavailable: KV did not answer for as long.
        """
        fitting = await self._index.max_value_bytes() // (LEAVING_BYTES + _longest(email_ids))
        size = max(1, min(STEP_EMAILS, fitting - 4))  # the bytes of 4 emails are for the sums and the time of the seal
        for start in range(0, len(email_ids), size):
            async for attempt in _while_contested():
                with attempt:
                    await self._step(place, email_ids[start : start + size])

    async def complete(self, place: Place) -> None:
        """Complete a step that an earlier run, or one at the same time, has written into the seal.

        Raises the same errors.
        """
        async for attempt in _while_contested():
            with attempt:
                await self._read_completed(place)

    async def _read_completed(self, place: Place) -> _Written:
        """Return the seal when no email is leaving."""
        try:
            entry = await self._index.get_from_leader(place.seal_key)
        except KeyMissing as missing:
            return _Written(Seal(), missing.revision)
        try:
            written = _Written(seal.decode(entry.value), entry.revision)
        except decoding.Malformed as error:
            raise IndexCorrupt(place.seal_key) from error
        return await self._carry_out(place, written) if written.seal.leaving else written

    async def _step(self, place: Place, email_ids: Sequence[str]) -> None:
        written = await self._read_completed(place)
        leaving = await self._due(place, email_ids)  # read after the seal: no other run can have removed them
        if leaving:
            before = max(written.seal.before or self._before, self._before)
            begun = replace(written.seal, before=before, leaving=leaving)
            await self._carry_out(place, await self._write(place, begun, written.revision))

    async def _due(self, place: Place, email_ids: Sequence[str]) -> dict[str, Leaving]:
        """Return those of the ids that are in the segment and whose emails are due."""
        try:
            segment = set(await self._read_segment(place))
        except KeyMissing:
            return {}
        entries = await self._recipients.get_many([one for one in email_ids if one in segment])
        return {one: _leaving(entry) for one, entry in entries.items() if self.is_due(entry.value)}

    async def _carry_out(self, place: Place, written: _Written) -> _Written:
        """Carry out the step of a seal, no matter which run wrote it, and how much of it is done."""
        await self._remove_ids(place, written.seal)
        written = await self._delete_records(place, written)
        completed = await self._write(place, written.seal.removed(), written.revision)
        self._on_removed(place, len(written.seal.leaving))
        return completed

    async def _remove_ids(self, place: Place, sealed: Seal) -> None:
        """Remove the leaving ids from the segment, also while relays append to it."""
        while True:
            try:
                entry = await self._index.get_from_leader(place.segment_key)
            except KeyMissing:
                return
            email_ids = _decode(place, entry)
            left = [one for one in email_ids if one not in sealed.leaving]
            if len(left) == len(email_ids):
                return
            try:
                if not left and place.number == group_index.FIRST and _is_small(sealed):
                    await self._index.delete(place.segment_key, entry.revision)
                else:  # an empty array keeps the place of the segment between the others
                    await self._index.update(place.segment_key, group_index.encode(left), entry.revision)
            except RevisionConflict:
                continue
            return

    async def _delete_records(self, place: Place, written: _Written) -> _Written:
        """Delete the records of the leaving emails. One that has changed is counted anew before it is deleted."""
        waiting = written.seal.leaving
        while True:
            refused = [one for one in await asyncio.gather(*map(self._delete, waiting, waiting.values())) if one]
            changed = await asyncio.gather(*map(self._find_changed, refused))
            waiting = {one: _leaving(entry) for one, entry in zip(refused, changed, strict=True) if entry}
            if not waiting:
                return written
            if any(written.seal.leaving[one] != left for one, left in waiting.items()):
                anew = replace(written.seal, leaving={**written.seal.leaving, **waiting})
                written = await self._write(place, anew, written.revision)

    async def _delete(self, email_id: str, leaving: Leaving) -> str | None:
        """Delete a record in the revision that is counted; return the id if it has another."""
        async with self._deletes:
            try:
                await self._recipients.delete(email_id, leaving.revision)
            except RevisionConflict:
                return email_id
            return None

    async def _find_changed(self, email_id: str) -> Entry | None:
        async with self._deletes:
            try:
                return await self._recipients.get_from_leader(email_id)
            except KeyMissing:
                return None

    async def _write(self, place: Place, sealed: Seal, revision: int) -> _Written:
        return _Written(sealed, await self._index.update(place.seal_key, seal.encode(sealed), revision))

    async def _read_segment(self, place: Place) -> tuple[str, ...]:
        return _decode(place, await self._index.get_from_leader(place.segment_key))


def _decode(place: Place, entry: Entry) -> tuple[str, ...]:
    try:
        return group_index.decode(entry.value)
    except decoding.Malformed as error:
        raise IndexCorrupt(place.segment_key) from error


def _leaving(entry: Entry) -> Leaving:
    return Leaving(entry.revision, *map(int, counts.of_record(entry.value)))


def _is_small(sealed: Seal) -> bool:
    return sealed.total_sent + len(sealed.leaving) < SMALL_GROUP


def _longest(email_ids: Sequence[str]) -> int:
    return max(map(len, email_ids), default=0)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, RevisionConflict | StoreUnavailable) and not isinstance(
        error, NotPermitted | BucketMissing
    )


def _while_contested() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_random_exponential(multiplier=0.01, max=1),
        stop=stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )

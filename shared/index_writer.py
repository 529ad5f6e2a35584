# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Appends email ids to the group index. Ids that wait for the same group are written together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import msgspec

from shared import group_index, redaction
from shared.errors import KeyMissing, RevisionConflict, StoreError, StoreUnavailable, ValueTooLarge
from shared.kv.bucket import while_conflicting

if TYPE_CHECKING:
    from shared.kv.bucket import Bucket

log = logging.getLogger(__name__)

TAIL_SECONDS: Final = 10.0  # how long a segment is assumed to be unchanged
CONFIRMED_SECONDS: Final = 0.02  # how long the bucket is assumed not to be deleted and created again
MAX_WRITES_PER_SECOND: Final = 100_000  # into one bucket, by all writers: more than a server can do
MAX_CACHED_GROUPS: Final = 1024
MAX_CACHED_BYTES: Final = 32 * 1024 * 1024
MEMBERS_SECONDS: Final = 60.0  # how long an id that was in the index is assumed to be there
BYTES_PER_MEMBER: Final = 130

_ANY_ID: Final = str(UUID(int=0))  # all ids have the same length


class _Tail(NamedTuple):
    """The last segment of a group when it was last read or written.

    If it does not exist, the revision is that of its deletion marker, or 0.
    """

    segment: int = group_index.FIRST
    revision: int = 0
    value: bytes = b""
    ids: int = 0
    exists: bool = False


class _Waiting(NamedTuple):
    email_id: str
    again: bool
    written: asyncio.Future[None]


class _Group:
    """The cached tail of a group, and the ids that wait to be appended to it.

    `members` are the ids of all segments when the tail was read or written; they are read only for an append `again`.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.tail = _Tail()
        self.is_known = False  # the first write tries to create the group without a read
        self.fresh_until = 0.0
        self.max_bytes = 0  # the limit of a value when the tail was known to be the last segment
        self.bucket_created = ""
        self.members: set[str] | None = None
        self.members_until = 0.0
        self.cached_bytes = 0
        self.waiting: list[_Waiting] = []
        self.writer: asyncio.Task[None] | None = None
        self.is_busy = False


class IndexWriter:
    """Appends to the groups of one bucket, into which other processes may write at the same time."""

    def __init__(self, bucket: Bucket) -> None:
        """Write to `bucket`."""
        self._bucket = bucket
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._bytes = 0
        self._bucket_created = ""
        self._confirmed_at = 0.0

    async def append(self, group_id: str, email_id: str, *, again: bool = False) -> None:
        """Return when the id is in the index; with `again`, only if it is not there yet, no matter who else appends it.

        Raises:
            StoreUnavailable: it is unknown whether the id was written. Try again.
            ValueTooLarge: one id alone is over the limit of the bucket.
        """
        group = self._group(group_index.key_of(group_id))
        if group.is_busy:
            written = asyncio.get_running_loop().create_future()
            group.waiting.append(_Waiting(email_id, again, written))
            await written
            return
        group.is_busy = True
        try:
            await self._write(group, [email_id], again=again)
        finally:
            self._continue(group)

    def _continue(self, group: _Group) -> None:
        """Write the ids that have come meanwhile, in a task, so that the request that wrote first can be answered."""
        waiting, group.waiting = [one for one in group.waiting if not one.written.done()], []
        if waiting:
            ids, again = [one.email_id for one in waiting], any(one.again for one in waiting)
            group.writer = asyncio.get_running_loop().create_task(self._write(group, ids, again=again))
            group.writer.add_done_callback(partial(self._finish, group, waiting))
        else:
            group.writer, group.is_busy = None, False
            self._evict()

    def _finish(self, group: _Group, waiting: list[_Waiting], writer: asyncio.Task[None]) -> None:
        """Release the appends that a task wrote, however it ended."""
        _settle(waiting, _failure(writer))
        self._continue(group)

    async def _write(self, group: _Group, email_ids: list[str], *, again: bool) -> None:
        try:
            if again and await self._are_members(group, email_ids):
                return
            if not await self._is_current(group) or (again and not group.is_known):
                await self._find_tail_anew(group, group_index.FIRST)
            if again:  # after the tail was read: an id that another process appends later is a conflict
                email_ids = await self._absent(group, email_ids)
            try:
                await self._append(group, email_ids)
            except RevisionConflict:
                await self._append_after_conflict(group, email_ids, again=again)
        except BaseException:
            group.fresh_until = 0.0
            raise

    async def _is_current(self, group: _Group) -> bool:
        """Return whether the cached tail must still be the last segment, unless its revision has changed.

        After a rise of the limit a full segment has space again, though later ones exist. In a bucket that was deleted
        and created again, the revision may belong to another value, which a write would replace.
        """
        is_fresh = group.is_known and time.monotonic() < group.fresh_until
        if not self._bucket_created or (is_fresh and self._may_be_another_bucket(group.tail.revision)):
            await self._ask_when_created()
        max_bytes = await self._bucket.max_value_bytes()
        if not group.is_known:
            group.max_bytes, group.bucket_created = max_bytes, self._bucket_created
            return True
        return is_fresh and group.max_bytes == max_bytes and group.bucket_created == self._bucket_created

    def _may_be_another_bucket(self, revision: int) -> bool:
        """Return whether a bucket that was created since the last answer can have reached this revision."""
        seconds = time.monotonic() - self._confirmed_at
        return seconds > CONFIRMED_SECONDS and revision < seconds * MAX_WRITES_PER_SECOND

    async def _ask_when_created(self) -> None:
        now = time.monotonic()
        self._bucket_created = (await self._bucket.info()).created
        self._confirmed_at = now

    async def _append_after_conflict(self, group: _Group, email_ids: list[str], *, again: bool) -> None:
        try:
            async for attempt in while_conflicting():
                with attempt:
                    if again:
                        await self._find_appended(group)
                        email_ids[:] = await self._absent(group, email_ids)
                    else:
                        await self._find_tail_anew(group, group.tail.segment)
                    email_ids[:] = [one for one in email_ids if one.encode() not in group.tail.value]
                    await self._append(group, email_ids)
        except RevisionConflict as conflict:
            raise StoreUnavailable(f"group index: {conflict}, at each try to write") from conflict

    async def _append(self, group: _Group, email_ids: list[str]) -> None:
        """Write the ids into the tail, then into further segments; remove the written ids from the list."""
        while email_ids:
            tail = group.tail
            fitting = group_index.fitting(len(tail.value), tail.ids, tail.segment, email_ids, group.max_bytes)
            if fitting:
                await self._write_segment(group, email_ids[:fitting])
                del email_ids[:fitting]
            elif tail.ids:
                self._set_tail(group, _Tail(tail.segment + 1))
            else:
                raise ValueTooLarge(f"one id does not fit into {group.max_bytes} bytes")

    async def _write_segment(self, group: _Group, email_ids: list[str]) -> None:
        tail = group.tail
        value = group_index.extend(tail.value, email_ids) if tail.ids else group_index.encode(email_ids)
        key = group_index.segment_key(group.key, tail.segment)
        try:
            revision = await self._bucket.update(key, value, tail.revision)
        except ValueTooLarge as error:  # the limit was lowered since it was read; the next try reads it again
            raise RevisionConflict(f"the limit for values was lowered while {key} was written") from error
        if group.members is not None:
            group.members.update(email_ids)
        self._set_tail(group, _Tail(tail.segment, revision, value, tail.ids + len(email_ids), exists=True))
        group.fresh_until = time.monotonic() + TAIL_SECONDS

    async def _find_tail_anew(self, group: _Group, segment: int) -> None:
        group.bucket_created = self._bucket_created
        group.max_bytes = await self._bucket.max_value_bytes()
        group.members = None
        self._set_tail(group, await self._find_tail(group.key, segment, group.max_bytes))

    async def _find_tail(self, key: str, segment: int, max_bytes: int) -> _Tail:
        """Find the last segment by a galloping search from `segment`, or from the first if the index was deleted.

        Returns an empty one if no id fits into the last. One that is not full may be followed by others: they were
        begun when the limit was lower, or `retention` of the tracker has removed ids from it, perhaps all.
        """
        tail = await self._read_segment(key, segment)
        if not tail.exists and segment != group_index.FIRST:
            return await self._find_tail(key, group_index.FIRST, max_bytes)
        step = 1
        while tail.exists:
            further = await self._read_segment(key, tail.segment + step)
            if further.exists:
                tail, step = further, step * 2
            elif step > 1:
                step = 1
            else:
                return further if _is_full(tail, max_bytes) else tail
        return tail

    async def _read_segment(self, key: str, segment: int) -> _Tail:
        try:
            entry = await self._bucket.get_from_leader(group_index.segment_key(key, segment))
        except KeyMissing as missing:
            return _Tail(segment, missing.revision)
        try:
            email_ids = group_index.decode(entry.value)
        except msgspec.DecodeError:
            extra = {"key": redaction.identifier(key), "segment": segment, "revision": entry.revision}
            log.error("group_index.corrupt", extra=extra)
            return _Tail(segment, entry.revision, entry.value, group_index.capacity(segment), exists=True)
        value = group_index.encode(email_ids) if email_ids else b""
        return _Tail(segment, entry.revision, value, len(email_ids), exists=True)

    async def _are_members(self, group: _Group, email_ids: list[str]) -> bool:
        """Return whether all ids were seen in the index a short time ago."""
        if group.members is None or time.monotonic() >= group.members_until or not group.members.issuperset(email_ids):
            return False
        if time.monotonic() - self._confirmed_at > CONFIRMED_SECONDS:
            await self._ask_when_created()
        return group.bucket_created == self._bucket_created

    async def _absent(self, group: _Group, email_ids: list[str]) -> list[str]:
        """Return each id once, without those that are in the index."""
        if group.members is None or time.monotonic() >= group.members_until:
            group.members = set(chain.from_iterable(map(_quoted, await self._values(group.key))))
            group.members_until = time.monotonic() + MEMBERS_SECONDS
            self._count_bytes(group)
        return [one for one in dict.fromkeys(email_ids) if one not in group.members]

    async def holds(self, group_id: str, email_id: str) -> bool:
        """Return whether the index has the id. Raises StoreUnavailable."""
        return any(email_id in _quoted(value) for value in await self._values(group_index.key_of(group_id)))

    async def _values(self, key: str) -> list[bytes]:
        segments = await self._bucket.get_matching(key, group_index.later_segments(key))
        if segments is not None:
            return [entry.value for entry in segments.values()]
        values: list[bytes] = []
        while (segment := await self._read_segment(key, len(values))).exists:
            values.append(segment.value)
        return values

    async def _find_appended(self, group: _Group) -> None:
        """Read the tail and the segments behind it anew: only there can others have appended an id."""
        tail = await self._read_segment(group.key, group.tail.segment)
        if group.members is None or not tail.exists:
            await self._find_tail_anew(group, group_index.FIRST)
            return
        group.members.update(_quoted(tail.value))
        while (further := await self._read_segment(group.key, tail.segment + 1)).exists:
            filled = await self._read_segment(group.key, tail.segment)  # before the next one was begun, after our read
            group.members.update(_quoted(filled.value + further.value))
            tail = further
        group.max_bytes = await self._bucket.max_value_bytes()
        self._set_tail(group, further if _is_full(tail, group.max_bytes) else tail)

    def _set_tail(self, group: _Group, tail: _Tail) -> None:
        group.tail, group.is_known = tail, True
        self._count_bytes(group)

    def _count_bytes(self, group: _Group) -> None:
        size = len(group.tail.value) + BYTES_PER_MEMBER * len(group.members or ())
        self._bytes += size - group.cached_bytes
        group.cached_bytes = size

    def _group(self, key: str) -> _Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key)
        else:
            self._groups.move_to_end(key)
        return group

    def _evict(self) -> None:
        """Drop the oldest groups from the cache: those that are not fresh, and more if there are too many."""
        now = time.monotonic()
        while self._groups:
            key, group = next(iter(self._groups.items()))
            if group.is_busy:
                self._groups.move_to_end(key)
                return
            is_fresh = now < max(group.fresh_until, group.members_until)
            if is_fresh and len(self._groups) <= MAX_CACHED_GROUPS and self._bytes <= MAX_CACHED_BYTES:
                return
            del self._groups[key]
            self._bytes -= group.cached_bytes


def _is_full(tail: _Tail, max_bytes: int) -> bool:
    """Return whether no further id fits."""
    return tail.ids > 0 and not group_index.fitting(len(tail.value), tail.ids, tail.segment, [_ANY_ID], max_bytes)


def _quoted(value: bytes) -> list[str]:
    """Return all strings between quotation marks: the ids of a segment, also of a corrupt one."""
    return value.decode(errors="replace").split('"')


def _failure(writer: asyncio.Task[None]) -> StoreError | None:
    if writer.cancelled():
        return StoreUnavailable("the write of the group index was interrupted")
    error = writer.exception()
    if error is None or isinstance(error, StoreError):
        return error
    log.error("group_index.failed", exc_info=error)
    return StoreUnavailable(f"the write of the group index failed: {error!r}")


def _settle(waiting: list[_Waiting], error: StoreError | None) -> None:
    for written in (one.written for one in waiting if not one.written.done()):  # the others are no longer awaited
        if error:
            written.set_exception(error)
        else:
            written.set_result(None)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The suppression list as an operator sees it: looked up, added to, removed from, read as a whole."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shared import contract, suppression
from shared.bucket import Bucket
from shared.commands import command
from shared.commands.bucket_scan import BucketScan
from shared.errors import KeyMissing, KeyTaken, RevisionConflict
from shared.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.contract import Suppression

Addition = Literal["added", "kept", "replaced"]

TRIES: Final = 5  # against the tracker or another operator, who may write the same address at the same time

_decode = msgspec.json.Decoder(contract.Suppression).decode
_encode = msgspec.json.Encoder().encode


class EntryCorrupt(Exception):
    """The value under a key of the list is no entry; the relay answers `internal error` for its address."""


class SuppressionList:
    """The entries of a bucket. Every method may raise StoreError."""

    def __init__(self, bucket: Bucket) -> None:
        """Keep the list in `bucket`."""
        self._bucket = bucket

    async def find(self, address: str) -> Suppression | None:
        """Return the entry of a normalised address.

        Raises:
            EntryCorrupt: there is one that cannot be read.
        """
        try:
            value = (await self._bucket.get_from_leader(suppression.key_of(address))).value
        except KeyMissing:
            return None
        return decode(value)

    async def add(self, entry: Suppression, *, replace: bool = False) -> tuple[Addition, Suppression]:
        """Put an entry in; one that is there stays unless it is to be replaced, or cannot be read."""
        key, value = suppression.key_of(entry.address), _encode(entry)
        for _ in range(TRIES):
            try:
                await self._bucket.create(key, value)
            except KeyTaken as taken:
                known = _readable(taken.value)
                if known and (known == entry or not replace):
                    return "kept", known
                try:
                    await self._bucket.update(key, value, taken.revision)
                except RevisionConflict:
                    continue
                return "replaced", entry
            return "added", entry
        raise RevisionConflict(f"others keep changing the entry of {entry.address}")

    async def remove(self, address: str) -> bool:
        """Take the entry of a normalised address out; return whether there was one."""
        key = suppression.key_of(address)
        for _ in range(TRIES):
            try:
                await self._bucket.delete(key, (await self._bucket.get_from_leader(key)).revision)
            except KeyMissing:
                return False
            except RevisionConflict:
                continue
            return True
        raise RevisionConflict(f"others keep changing the entry of {address}")


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[tuple[SuppressionList, BucketScan]]:
    """Connect as a command of this name, for one who looks up and one who reads all.

    Raises:
        BucketMissing: nobody has made the bucket.
    """
    async with command.connected(name) as caller, Inbox(caller.connection) as inbox:
        bucket = Bucket(inbox, caller.connection, contract.EMAIL_SUPPRESSIONS_BUCKET)
        await bucket.info()
        yield SuppressionList(bucket), BucketScan(caller.connection, inbox, bucket)


async def entries(scan: BucketScan) -> AsyncIterator[Suppression | EntryCorrupt]:
    """Return all entries, in the order in which they were written."""
    async for page in scan.pages():
        for stored in page:
            try:
                yield decode(stored.value)
            except EntryCorrupt as error:
                yield EntryCorrupt(f"key {stored.key}: {error}")


def decode(value: bytes) -> Suppression:
    """Read an entry.

    Raises:
        EntryCorrupt: it is none.
    """
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EntryCorrupt(f"no entry: {error}") from error


def _readable(value: bytes) -> Suppression | None:
    try:
        return decode(value)
    except EntryCorrupt:
        return None

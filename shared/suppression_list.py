# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The suppression list: the addresses that get no mail, one entry for each in the `email-suppressions` bucket.

The relay looks addresses up, the tracker adds to the list, operators manage it by `lfx-email-tracker suppressions`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shared import addresses, contract, decoding
from shared.errors import KeyMissing, KeyTaken, RevisionConflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.contract import Suppression
    from shared.kv.bucket import Bucket
    from shared.kv.scan import BucketScan

Addition = Literal["added", "kept", "replaced"]

MAX_DETAIL_CHARACTERS: Final = 500
TRIES: Final = 5  # against the tracker or another operator, who may write the same address at the same time

_decode = decoding.decoder(contract.Suppression)
_encode = msgspec.json.Encoder().encode


class EntryCorrupt(Exception):
    """The value under a key of the list is no entry; the relay answers `internal error` for its address."""


class SuppressionList:
    """The entries of a bucket. Every method may raise StoreError.

    Addresses are given as `normalised` returns them.
    """

    def __init__(self, bucket: Bucket) -> None:
        """Keep the list in `bucket`."""
        self._bucket = bucket

    async def find(self, address: str) -> Suppression | None:
        """Return the entry of an address, in one exchange; a follower that is behind may not have it yet.

        Raises:
            EntryCorrupt: there is one that cannot be read.
        """
        value = await self._bucket.find(key_of(address))
        return None if value is None else decode(value)

    async def find_latest(self, address: str) -> Suppression | None:
        """Return the entry of an address, read through the stream's leader.

        Raises:
            EntryCorrupt: there is one that cannot be read.
        """
        try:
            return decode((await self._bucket.get_from_leader(key_of(address))).value)
        except KeyMissing:
            return None

    async def add(self, entry: Suppression, *, replace: bool = False) -> tuple[Addition, Suppression]:
        """Add an entry; an existing one stays unless `replace` is set or it cannot be read.

        Return what was done, and the entry that is in the list now.
        """
        key, value = key_of(entry.address), _encode(entry)
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
        """Remove the entry of an address; return whether there was one."""
        key = key_of(address)
        for _ in range(TRIES):
            try:
                await self._bucket.delete(key, (await self._bucket.get_from_leader(key)).revision)
            except KeyMissing:
                return False
            except RevisionConflict:
                continue
            return True
        raise RevisionConflict(f"others keep changing the entry of {address}")


async def entries(scan: BucketScan) -> AsyncIterator[Suppression | EntryCorrupt]:
    """Yield all entries, in the order in which they were written."""
    async for page in scan.pages():
        for stored in page:
            try:
                yield decode(stored.value)
            except EntryCorrupt as error:
                yield EntryCorrupt(f"key {stored.key}: {error}")


def normalised(address: str) -> str:
    """Return an address as it is compared: as the relay puts it on the wire, in lower case, without a name.

    Raises:
        ValueError: it is not a mailbox that the relay would send to.
    """
    return addresses.parse(address.strip()).address.lower()


def key_of(address: str) -> str:
    """Return the KV key of a normalised address: its SHA-256 in hexadecimal, which does not show the address."""
    return hashlib.sha256(address.encode()).hexdigest()


def decode(value: bytes) -> Suppression:
    """Read an entry.

    Raises:
        EntryCorrupt: it is not one.
    """
    try:
        return _decode(value)
    except decoding.Malformed as error:
        raise EntryCorrupt(f"not an entry: {error}") from error


def _readable(value: bytes) -> Suppression | None:
    try:
        return decode(value)
    except EntryCorrupt:
        return None

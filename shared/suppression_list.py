# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The suppression list: the addresses that get no mail, each with an entry in the `email-suppressions` bucket.

The relay looks addresses up, the tracker adds to the list, operators manage it by `lfx-email-tracker suppressions`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shared import addresses, contract, decoding, error_texts
from shared.errors import KeyMissing, KeyTaken, RevisionConflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.contract import Suppression
    from shared.kv.bucket import Bucket
    from shared.kv.scan import BucketScan

Addition = Literal["added", "kept", "replaced"]

MAX_DETAIL_CHARACTERS: Final = 500
TRIES: Final = 5  # the tracker or another operator may write the same address at the same time

_decode = decoding.decoder(contract.Suppression)
_encode = msgspec.json.Encoder().encode


class EntryCorrupt(Exception):
    """The value of a key is not an entry of the list. The relay answers `internal error` for its address."""


class SuppressionList:
    """Reads and changes the entries in a bucket. Every method may raise StoreError.

    Addresses are those that `normalised` returns.
    """

    def __init__(self, bucket: Bucket) -> None:
        """Keep the list in `bucket`."""
        self._bucket = bucket

    async def find(self, address: str) -> Suppression | None:
        """Return the entry of an address or None, in one exchange; a follower that is behind may not have it yet.

        Raises:
            EntryCorrupt: the entry cannot be read.
        """
        value = await self._bucket.find(key_of(address))
        return None if value is None else decode(value)

    async def find_latest(self, address: str) -> Suppression | None:
        """Return the entry of an address or None, read through the stream's leader.

        Raises:
            EntryCorrupt: the entry cannot be read.
        """
        try:
            return decode((await self._bucket.get_from_leader(key_of(address))).value)
        except KeyMissing:
            return None

    async def add(self, entry: Suppression, *, replace: bool = False) -> tuple[Addition, Suppression]:
        """Add an entry; an existing one stays unless `replace` is set or it cannot be read.

        Returns what was done, and the entry that is in the list now.
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
        raise RevisionConflict(f"others changed the entry of {entry.address} at the same time: try again")

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
        raise RevisionConflict(f"others changed the entry of {address} at the same time: try again")


async def entries(scan: BucketScan) -> AsyncIterator[Suppression | EntryCorrupt]:
    """Yield all entries in the order of their writes; EntryCorrupt is yielded, not raised."""
    async for page in scan.pages():
        for stored in page:
            try:
                yield decode(stored.value)
            except EntryCorrupt as error:
                yield EntryCorrupt(f"key {stored.key}: {error}")


def normalised(address: str) -> str:
    """Return the form of an address that entries are compared by: as sent over SMTP, in lower case, without a name.

    Raises:
        ValueError: the relay would not send to this address.
    """
    return addresses.parse(address.strip()).address.lower()


def key_of(address: str) -> str:
    """Return the KV key of a normalised address: its SHA-256 in hexadecimal, which does not show the address."""
    return hashlib.sha256(address.encode()).hexdigest()


def decode(value: bytes) -> Suppression:
    """Decode an entry.

    Raises:
        EntryCorrupt: the value is not an entry.
    """
    try:
        return _decode(value)
    except decoding.Malformed as error:
        raise EntryCorrupt(f"not an entry: {error_texts.in_words(error)}") from error


def _readable(value: bytes) -> Suppression | None:
    try:
        return decode(value)
    except EntryCorrupt:
        return None

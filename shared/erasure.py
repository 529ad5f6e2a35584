# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Erases personal data from records in place, and notes for which addresses this was done.

An erased record keeps its ids, times and counts, so no count of a group changes. It is recognised by `to`, which the Go
service keeps when it rewrites the record. The note is a value in the bucket of the records: with it, a record that is
written later, but is of an email that was sent before, is erased too.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shared import contract, decoding, suppression_list
from shared.errors import KeyMissing, KeyTaken
from shared.kv.bucket import while_conflicting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.kv.bucket import Bucket

KEY_PREFIX: Final = "=erased."  # no email id begins with `=`
SHORTENED_AT_ONCE: Final = 10

_REPLACED: Final = frozenset({"to", "subject"})
_REMOVED: Final = frozenset({"tags"})
_LISTS: Final[Mapping[str, tuple[str, ...]]] = {
    "opened_at_list": ("event_id", "opened_at"),
    "click_list": ("event_id", "link", "clicked_at"),
}
_OBJECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "failure": ("kind", "type", "sub_type"),
    "delay": ("type", "at", "until"),
}
"""Fields of a record with the fields inside them that are kept; a `link` is kept as an empty string."""
_KNOWN: Final = frozenset(contract.EmailRecipientRecord.__struct_encode_fields__)
_NUMBER_OR_FLAG: Final = b"-0123456789tfn"  # the first byte of such a value, or of null, in JSON

_encode = msgspec.json.Encoder().encode
_decode_fields = decoding.decoder(dict[str, msgspec.Raw])
_decode_objects = decoding.decoder(list[dict[str, Any]])
_decode_object = decoding.decoder(dict[str, Any])


class Note(msgspec.Struct, frozen=True):
    """When the records of an address were erased."""

    erased_at: contract.Timestamp


_decode_note = decoding.decoder(Note)


def key_of(address: str) -> str:
    """Return the key of the note for an address that `suppression_list.normalised` returned; it shows a digest only."""
    return KEY_PREFIX + suppression_list.key_of(address)


def erase(value: bytes) -> bytes | None:
    """Return a stored record without personal data, or None if it has none.

    Fields that this version does not know are kept if they are numbers or flags.

    Raises:
        decoding.Malformed: the value is not a JSON object.
    """
    fields = _decode_fields(value)
    kept = {name: _kept(name, field) for name, field in fields.items()}
    erased = _encode({name: field for name, field in kept.items() if field is not None})
    return None if erased == _encode(fields) else erased


def shorten(value: bytes, max_bytes: int) -> bytes:
    """Remove the oldest opens and clicks of an erased record until it fits: `erased` may be longer than an address."""
    if len(value) <= max_bytes:
        return value
    fields = _decode_object(value)
    lists = {name: entries for name in _LISTS if (entries := fields.pop(name, None))}
    while lists and len(value) > max_bytes:
        longest = max(lists, key=lambda name: len(lists[name]))
        lists[longest] = lists[longest][SHORTENED_AT_ONCE:]
        lists = {name: entries for name, entries in lists.items() if entries}
        value = _encode(fields | lists)
    return value


def _kept(name: str, field: msgspec.Raw) -> object | None:
    """Return what is kept of a field; None removes it."""
    if name in _REPLACED:
        return contract.ERASED
    if bytes(field) == b"null":
        return field
    if name in _LISTS or name in _OBJECTS:
        return _without_data(name, field)
    if name in _KNOWN:
        return None if name in _REMOVED else field
    return field if bytes(field)[:1] in _NUMBER_OR_FLAG else None


def _without_data(name: str, field: msgspec.Raw) -> object | None:
    """Return a list or an object with the kept fields only; the same bytes if there are no others."""
    before: Any
    after: Any
    try:
        if name in _LISTS:
            before = _decode_objects(bytes(field))
            after = [_only(one, _LISTS[name]) for one in before]
        else:
            before = _decode_object(bytes(field))
            after = _only(before, _OBJECTS[name])
    except decoding.Malformed:
        return None
    return field if after == before else after


def _only(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: "" if name == "link" else field for name, field in fields.items() if name in names}


class Erasures:
    """Erases records in their bucket. Every method may raise StoreError.

    Addresses are those that `suppression_list.normalised` returns.
    """

    def __init__(self, recipients: Bucket) -> None:
        """Use the bucket of the records."""
        self._recipients = recipients

    async def erased_at(self, address: str) -> datetime | None:
        """Return when the records of an address were erased, read through the leader; None if they were not."""
        try:
            entry = await self._recipients.get_from_leader(key_of(address))
            return _decode_note(entry.value).erased_at
        except (KeyMissing, decoding.Malformed):
            return None

    async def note(self, address: str, at: datetime) -> None:
        """Note that the records of an address are erased at this time."""
        key, value = key_of(address), _encode(Note(at))
        async for attempt in while_conflicting():
            with attempt:
                try:
                    await self._recipients.create(key, value)
                except KeyTaken as taken:
                    await self._recipients.supersede(key, value, taken.revision)

    async def erase(self, email_id: str) -> bool:
        """Erase the data of one record; return whether it had any. Without a record do nothing.

        Raises:
            decoding.Malformed: the record cannot be read.
        """
        max_bytes = await self._recipients.max_value_bytes()
        async for attempt in while_conflicting():
            with attempt:
                try:
                    entry = await self._recipients.get_from_leader(email_id)
                except KeyMissing:
                    return False
                erased = erase(entry.value)
                if erased is None:
                    return False
                await self._recipients.supersede(email_id, shorten(erased, max_bytes), entry.revision)
        return True

    async def erase_if_noted(self, record: contract.EmailRecipientRecord) -> bool:
        """Erase a record that was written late, if its recipient's records were erased after it was sent."""
        try:
            address = suppression_list.normalised(record.to)
        except ValueError:  # the relay writes no such record
            return False
        erased_at = await self.erased_at(address)
        if erased_at is None or record.sent_at > erased_at:
            return False
        try:
            return await self.erase(record.email_id)
        except decoding.Malformed:  # the tracker reports a record that cannot be read
            return False

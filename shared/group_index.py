# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the keys and values of the group index, which lists the email ids of each group in one or more segments.

The first segment is the value of the group's own key, in the layout of the Go service. Further segments have the keys
`=.<n>.<key of the group>`: one wildcard matches them all, and no group id maps to such a key. The same holds for
`=seal.<n>.<key of the group>`, the seal of segment n: the counts of emails that `retention` removed from it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from shared import decoding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_GROUP_ID_BYTES: Final = 255
MAX_EMAIL_ID_LENGTH: Final = 255
FIRST_SEGMENT_IDS: Final = 10_000
LATER_SEGMENT_IDS: Final = 500
FIRST: Final = 0

_SEAL: Final = "=seal."
_NUMBERED: Final = ("=.", _SEAL)  # no group id has such a key: an escaped one has no dot
_LEGAL_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UNESCAPED = re.compile(rb"[^-/_a-zA-Z0-9]")
_FORBIDDEN = re.compile(r"[\r\n\0]")
_decode_ids = decoding.decoder(tuple[str, ...])


def is_valid(group_id: str) -> bool:
    """Return whether a caller may use this group id: at most 255 bytes of UTF-8, without CR, LF and NUL."""
    return len(group_id.encode()) <= MAX_GROUP_ID_BYTES and not _FORBIDDEN.search(group_id)


def is_legal_key(key: str) -> bool:
    """Return whether NATS accepts the key: `[-/_=.a-zA-Z0-9]+` without empty tokens, which cause a timeout."""
    return bool(_LEGAL_KEY.fullmatch(key)) and ".." not in key and key[0] != "." and key[-1] != "."


def is_email_id(email_id: str) -> bool:
    """Return whether a record can have this id: a legal key of at most 255 characters.

    Keys that begin with `=` are other values in the bucket of the records, such as those of `shared.erasure`.
    """
    return len(email_id) <= MAX_EMAIL_ID_LENGTH and is_legal_key(email_id) and email_id[0] != "="


def email_id_of(given: str) -> str:
    """Return an email id as it is stored: without blanks around it, and a UUID in lower case."""
    email_id = given.strip()
    return email_id.lower() if _UUID.fullmatch(email_id) else email_id


def key_of(group_id: str) -> str:
    """Return the key of a group id: the id itself where legal, else `=` and the id with other bytes as `=XX`."""
    if is_legal_key(group_id) and group_id[0] != "=":
        return group_id
    return "=" + _UNESCAPED.sub(lambda match: b"=%02X" % match[0][0], group_id.encode()).decode()


def segment_key(key: str, segment: int) -> str:
    """Return the key of a group's segment; segment 0 is the group's own key."""
    return key if segment == FIRST else f"=.{segment}.{key}"


def later_segments(key: str) -> str:
    """Return the subject filter that matches every segment of a group but the first."""
    return f"=.*.{key}"


def seal_key(key: str, segment: int) -> str:
    """Return the key of the seal of a group's segment."""
    return f"{_SEAL}{segment}.{key}"


def seals(key: str) -> str:
    """Return the subject filter that matches every seal of a group."""
    return f"{_SEAL}*.{key}"


def is_seal(key: str) -> bool:
    """Return whether this is the key of a seal."""
    return key.startswith(_SEAL)


def first_key(key: str) -> str:
    """Return the group's own key, from the key of a segment or of a seal."""
    return key.split(".", 2)[2] if key.startswith(_NUMBERED) else key


def segment_number(key: str) -> int:
    """Return the number of a segment, from its key or from the key of its seal."""
    return int(key.split(".", 2)[1]) if key.startswith(_NUMBERED) else FIRST


def capacity(segment: int) -> int:
    """Return how many ids a segment holds at most."""
    return FIRST_SEGMENT_IDS if segment == FIRST else LATER_SEGMENT_IDS


def decode(value: bytes) -> tuple[str, ...]:
    """Return the ids of a segment in send order.

    Raises:
        decoding.Malformed: the value is not a JSON array of strings.
    """
    return () if value.strip() == b"null" else _decode_ids(value)


def encode(email_ids: Iterable[str]) -> bytes:
    """Return the value of a segment."""
    return msgspec.json.encode(list(email_ids))


def extend(value: bytes, email_ids: Sequence[str]) -> bytes:
    """Append ids to the value of a non-empty segment, without decoding it. It may be large, and is copied once."""
    return b"".join((memoryview(value)[:-1], b",", encode(email_ids)[1:]))


def fitting(size: int, count: int, segment: int, email_ids: Sequence[str], max_bytes: int) -> int:
    """Return how many of `email_ids` fit into a segment that has `count` ids in `size` bytes."""
    most = min(len(email_ids), max(0, capacity(segment) - count))
    size = size if count else len(b"]")  # the first id follows no comma
    for taken in range(most):
        size += len(email_ids[taken]) + len(b'"",')
        if size > max_bytes:
            return taken
    return most

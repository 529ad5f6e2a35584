# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: reads fields of JSON objects whose names, types and values cannot be trusted."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from shared.decoding import Malformed
from tracker.events import lenient_json

if TYPE_CHECKING:
    from collections.abc import Mapping

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""A time before this one is none: Go writes 0001-01-01 for a time that was not set, other programs 1970-01-01."""
LEAST_MILLISECONDS: Final = 100_000_000_000
"""A number from here on counts milliseconds, and is after 1973; as seconds it would be after the year 5000."""
EPOCH_DIGITS: Final = frozenset({10, 13})
KEPT_CHARACTERS: Final = 40  # of a name whose folded form is kept in memory

_NOT_LETTERS = re.compile(r"[\W_]+")


def folded(name: str) -> str:
    """Return a name for comparing: in lower case, without blanks, hyphens, underscores and control characters."""
    return _folded_and_kept(name) if len(name) <= KEPT_CHARACTERS else _NOT_LETTERS.sub("", name).lower()


@lru_cache(maxsize=1024)
def _folded_and_kept(name: str) -> str:
    return _NOT_LETTERS.sub("", name).lower()


def get(fields: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field, which may be spelled differently; None if it is missing."""
    value = fields.get(name)
    if value is not None:
        return value
    wanted = folded(name)
    return next((value for other, value in fields.items() if value is not None and folded(other) == wanted), None)


def text(value: object) -> str:
    """Return a text unchanged, and an empty one for any other type."""
    return value if isinstance(value, str) else ""


def identifier(value: object) -> str:
    """Return an id, which may be a whole number; an empty text for any other value, and for blanks."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value) if text(value).strip() else ""


def mapping(value: object) -> dict[str, Any]:
    """Return an object, which may be JSON in a text; an empty object for any other value."""
    value = decoded(value)
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Any]:
    """Return a list, which may be JSON in a text; another value as the only element, and none for null and ""."""
    value = decoded(value)
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]


def decoded(value: object) -> object:
    """Return the object or list in a text, as programs write it that know columns only; else the value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return lenient_json.decode(value)
    except Malformed:
        return value


def time(value: object) -> datetime | None:
    """Read an ISO 8601 timestamp, with or without fraction, `Z`, `+00:00` or `+0000`; the default zone is UTC.

    A number, or its digits, is the time since 1970, in seconds or milliseconds.
    """
    if isinstance(value, int | float):
        return unix_time(value if value >= LEAST_MILLISECONDS else value * 1000)
    written = text(value).strip().upper()
    if written.isdecimal() and len(written) in EPOCH_DIGITS:
        return time(int(written))
    try:
        at = datetime.fromisoformat(written)
        return known((at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def unix_time(milliseconds: object) -> datetime | None:
    """Read a time in milliseconds since 1970, as a number or its digits."""
    try:
        return known(datetime.fromtimestamp(float(str(milliseconds)) / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return None


def known(at: datetime) -> datetime | None:
    """Return a time, or None if it is too early to be one."""
    return at if at >= EARLIEST else None

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: reads `mail`, SES's description of an email: its headers, tags and recipients.

SES writes the headers as a list of objects and the tags as an object of lists. Its documentation calls the tags a list,
and programs that stand in for SES or pass its events on write both in other forms (brave-intl/bat-go#1645).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tracker.events.json_fields import decoded, folded, get, listed, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES: Final = frozenset({"name", "key"})
"""The folded names of the field with the name of a header or a tag."""


def headers(mail: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the values of a header of the email; `name` is in capitals."""
    for given, value in _pairs(get(mail, "headers")):
        if given.strip().upper() == name:
            yield text(value)


def has_headers(mail: Mapping[str, Any]) -> bool:
    """Return whether SES has reported the headers, even if none is left."""
    return isinstance(decoded(get(mail, "headers")), list | dict)


def tags(mail: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the tags with their first value."""
    for name, values in _pairs(get(mail, "tags")):
        yield name, _first(values)


def tag(mail: Mapping[str, Any], name: str) -> str:
    """Return the value of a tag; an empty text if it is missing."""
    given = get(mail, "tags")
    if isinstance(given, dict):
        return _first(given.get(name))
    return next((value for found, value in tags(mail) if found == name), "")


def _first(values: object) -> str:
    return text(next(iter(listed(values)), ""))


def destination(mail: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses that the mail was sent to."""
    return tuple(filter(None, map(text, listed(get(mail, "destination")))))


def _pairs(given: object) -> Iterator[tuple[str, object]]:
    """Yield names and values of an object, or of a list of objects with a name and a value."""
    found = decoded(given)
    if isinstance(found, dict):
        yield from found.items()
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            name = one.get("name") or next((value for field, value in one.items() if folded(field) in NAMES), "")
            yield text(name), get(one, "value")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the options that all rows of a mailing share, and how the values of a row make them a request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from relay.commands.mailing import placeholders
from relay.commands.mailing.placeholders import HTML, PLAIN, URL, Columns, Syntax
from relay.commands.mailing.unfilled import Finder
from shared.contract import SendEmailRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

_JOINS: Final = re.compile(r"[\s-]+")
FIELDS: Final = (
    "to",
    "subject",
    "group_id",
    "from",
    "from_display_name",
    "reply_to",
    "unsubscribe_url",
    "idempotency_key",
)
TEMPLATED: Final[Mapping[str, Syntax]] = {
    "subject": PLAIN,
    "text": PLAIN,
    "html": HTML,
    "unsubscribe_url": URL,
    "idempotency_key": PLAIN,
}
"""The fields with placeholders."""


class Template:
    """The template of the requests of a mailing."""

    def __init__(self, given: Mapping[str, str], tags: Mapping[str, str], header: Sequence[str]) -> None:
        """Take the fields that all rows share, also html and text; a column of `header` replaces the one it names."""
        self._given = given
        self._tags = tags
        self._columns = Columns(header)
        self._column_of = {field: name for name in header if (field := field_of(name))}

    @property
    def used(self) -> AbstractSet[str]:
        """The columns that have filled a placeholder so far."""
        return self._columns.used

    def finder(self, numeric: AbstractSet[str]) -> Finder:
        """Return the finder of placeholders that are not filled in; see Finder for `numeric`."""
        return Finder(self._columns, numeric)

    def problems(self, finder: Finder) -> list[str]:
        """Return what is wrong with the placeholders in the options."""
        templates = [(name, self._given.get(name, ""), syntax) for name, syntax in TEMPLATED.items()]
        templates += [(f"tag {name}", value, PLAIN) for name, value in self._tags.items()]
        found = [problem for one in templates for problem in finder.problems(*one)]
        found += [
            f"{name}: {{{column}}} is not filled in here: add a column {name} instead"
            for name in FIELDS
            if name not in TEMPLATED
            for column in finder.columns_in(self._given.get(name, ""))
        ]
        return list(dict.fromkeys(found))

    def cell_problems(self, finder: Finder, values: Mapping[str, str]) -> list[str]:
        """Return what is wrong with the placeholders in the cells of a row that replace options."""
        cells = ((name, self._cell(name, values), syntax) for name, syntax in TEMPLATED.items() if name in FIELDS)
        return [problem for cell in cells if cell[1] for problem in finder.problems(*cell)]

    def request(self, values: Mapping[str, str]) -> SendEmailRequest:
        """Return the request of a row."""
        fields = {**self._given, **{name: value for name in FIELDS if (value := self._cell(name, values))}}
        fill = self._columns.fill
        filled = {name: fill(fields[name], values, syntax) for name, syntax in TEMPLATED.items() if name in fields}
        tags = {name: fill(value, values) for name, value in self._tags.items()}
        return msgspec.convert({**fields, **filled, "tags": tags or None}, SendEmailRequest)

    def _cell(self, field: str, values: Mapping[str, str]) -> str:
        """Return the cell of a row that replaces an option; empty if there is none."""
        return values.get(self._column_of.get(field, ""), "")


def field_of(heading: str) -> str:
    """Return the field of a request that a heading names in any case: `Group ID` is `group_id`; empty if none."""
    name = _JOINS.sub("_", placeholders.key(heading))
    return name if name in FIELDS else ""

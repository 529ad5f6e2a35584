# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: fills `{column}` and `{{column}}` in a template with the values of a row.

Case, blanks at the ends, and how the name is encoded do not matter. Braces around anything else stay unchanged.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_FOUND: Final = 10_000  # names that are looked up once
PLACEHOLDER: Final = re.compile(r"\{\{([^{}]{1,200})\}\}|\{([^{}]{1,200})\}")


class Syntax(msgspec.Struct, frozen=True):
    """How a value is written in a kind of text, and how a name in it is read."""

    encode: Callable[[str], str]
    decode: Callable[[str], str]


PLAIN: Final = Syntax(str, str)
HTML: Final = Syntax(html.escape, html.unescape)
URL: Final = Syntax(partial(quote, safe=""), unquote)


class Columns:
    """The columns of a file, by the names that placeholders may have for them."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names as they are in the file."""
        self.names = names
        self.used: set[str] = set()
        self._by_key = {key(name): name for name in names if name}
        self._found: dict[tuple[str, Syntax], str | None] = {}

    def find(self, text: str, syntax: Syntax = PLAIN) -> str | None:
        """Return the column that the text between braces names."""
        if (text, syntax) not in self._found:
            if len(self._found) >= MAX_FOUND:  # braces in the cells of many rows
                self._found.clear()
            self._found[text, syntax] = self._by_key.get(key(text)) or self._by_key.get(key(syntax.decode(text)))
        return self._found[text, syntax]

    def fill(self, template: str, values: Mapping[str, str], syntax: Syntax = PLAIN) -> str:
        """Replace each placeholder with the value of its column."""

        def replaced(match: re.Match[str]) -> str:
            name = self.find(inner(match), syntax)
            if name is None:
                return match[0]
            self.used.add(name)
            return syntax.encode(values[name])

        return PLACEHOLDER.sub(replaced, template)


def inner(match: re.Match[str]) -> str:
    """Return the text between the braces of a match of PLACEHOLDER."""
    return match[1] or match[2]


def key(name: str) -> str:
    """Return what equal names have in common: no case, no invisible characters, single blanks, one form of letters."""
    return " ".join(visible(name).casefold().split())


def visible(text: str) -> str:
    """Return a text with one form of each character, and without characters that are not visible."""
    return "".join(one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one) != "Cf")


def duplicates(names: Iterable[str]) -> list[str]:
    """Return the names that a placeholder cannot tell from an earlier one."""
    seen: set[str] = set()
    found: dict[str, None] = {}
    for name in names:
        if name and key(name) in seen:
            found[name] = None
        seen.add(key(name))
    return sorted(found)

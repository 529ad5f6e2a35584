# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: finds what recipients would see instead of a value: unknown names in braces, and other programs' placeholders.

The braces of CSS and JavaScript are legal: `<style>` and `<script>` are not searched for other programs' placeholders.
"""

from __future__ import annotations

import difflib
import html
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from relay.commands.mailing.placeholders import HTML, PLACEHOLDER, inner, key, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from relay.commands.mailing.placeholders import Columns, Syntax

LIKENESS: Final = 0.8  # of a name to a heading; 1 is equal
MIN_ASCII_LENGTH: Final = 2  # of a heading: `[x]` and `$1` have other meanings
MIN_ELEMENT_LENGTH: Final = 3  # `<p>` and `<td>` need no end tag
_VOID_ELEMENTS: Final = frozenset(("area", "base", "col", "embed", "img", "input", "link", "meta", "source", "wbr"))

_CODE: Final = re.compile(r"<(?:style|script)\b.*?</(?:style|script)\s*>", re.IGNORECASE | re.DOTALL)
_DECLARATION: Final = re.compile(r"\{\s*[\w-]+\s*:(?:\s[^{}]*|[^{};]*;[^{}]*)\}")  # of CSS: {color: red}, {color:red;}
_TAG: Final = re.compile(r"<!--.*?-->|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)
_IDENTIFIER: Final = re.compile(r"[^\W\d]\w*")
_WORDS: Final = re.compile(r"[^\W\d][\w .'-]{0,40}")
_SEPARATORS: Final = re.compile(r"[\s_.-]+")
_ELEMENT: Final = re.compile(r"<(\w+)>")
_NUMBER: Final = re.compile(r"[+-]?\d")
_FILLED: Final = re.compile("\0([0-9]+)\0")  # stands for a placeholder; no template has NUL
_FORMS: Final = (
    r"\{\s*FILLED|FILLED\s*\}",  # {{{name}}}, { {name} }, {{name}, {name}}
    r"[$#%]FILLED",  # ${name}, #{name}, %{name}
    r"\{\s*NAME(?!\w)|(?<!\w)NAME\s*\}",  # {name|upper}, {name:>10}, {name], name}
    r"\{[^{}]{0,80}?(?<!\w)NAME(?!\w)[^{}]{0,80}\}",  # {{ row.name }}, {$name}, {% name %}, {First_Name}
    r"\[+\s*%?=?\s*(?:\w+[.:])?[$.@]?NAME\s*%?\s*\]+(?!\()",  # [name], [[name]], [% name %]; not [name](link)
    r"\[\[[^\[\]]{0,80}?(?<!\w)NAME(?!\w)[^\[\]]{0,80}\]\]",  # [[data:name:"friend"]]
    r"<+%?[=\s-]*(?:\w+\.)?[$.@]?NAME[\s-]*%?>+",  # <name>, <<name>>, <%= name %>
    r"[\u00ab\u2039\u3010\u3014\u3016]\s*NAME\s*[\u00bb\u203a\u3011\u3015\u3017]",  # guillemets and the like
    r"%{1,2}[-=]?(?:\w+\.)?NAME[-=]?%{1,2}|%\(NAME\)",  # %name%, %%name%%, %(name)s
    r"(?<![\w%])%(?![0-9a-f]{2}(?!\w))NAME(?!\w)",  # %name; not %20
    r"\*\|[^|]{0,80}?(?<!\w)NAME(?!\w)[^|]{0,80}\|\*",  # *|NAME|*
    r"\(\(\s*NAME\s*\)\)",
    r"(?<![\w#@~^!:$+-])(?P<sign>[#@~^!:$+-]{1,2})NAME(?P=sign)(?!\w)",  # #name#, @name@, -name-
    r"__NAME__",
    r"(?<![\w$])\$+(?:\w+\.)?NAME(?!\w)",  # $name
    r"(?<![\w.@/])@NAME(?!\w)|(?<!\S):NAME(?!\w)",  # @name, :name
)


class Finder:
    """Finds the placeholders that the columns of a file do not fill."""

    def __init__(self, columns: Columns, numeric: AbstractSet[str]) -> None:
        """Take the columns; `${name}` is legal for those that are `numeric`, such as an amount of money."""
        self._columns = columns
        self._numeric = numeric
        searched = sorted(filter(_is_searchable, columns.names), key=len, reverse=True)
        self._patterns = {name: re.compile(_pattern(name), re.IGNORECASE) for name in searched}
        any_name = "|".join(one.pattern for one in self._patterns.values()) or "(?!)"
        self._forms = [
            re.compile(form.replace("NAME", f"(?:{any_name})").replace("FILLED", _FILLED.pattern), re.IGNORECASE)
            for form in _FORMS
        ]

    def problems(self, field: str, template: str, syntax: Syntax) -> list[str]:
        """Return what is wrong with the placeholders of a template, for the user."""
        markup = _DECLARATION.sub(" ", _CODE.sub(" ", template)) if syntax is HTML else template
        code = "".join(_CODE.findall(template)) if syntax is HTML else ""
        names = [inner(match) for match in PLACEHOLDER.finditer(code)]
        unknown = [name for name in names if _IDENTIFIER.fullmatch(name) and not self._columns.find(name, syntax)]
        marked = PLACEHOLDER.sub(lambda match: self._marked(match, syntax, unknown), markup)
        others = self._other_forms(marked, is_html=syntax is HTML)
        return [self._no_such_column(name) for name in unknown] + [
            f"{field}: {form} is not filled in: write {{{name}}}, or rename the column if this is no placeholder"
            for name, form in others.items()
        ]

    def columns_in(self, text: str) -> list[str]:
        """Return the columns whose placeholders a text has, in whichever form."""
        marked = PLACEHOLDER.sub(lambda match: self._marked(match, HTML, []), text)
        in_braces = [self._columns.names[int(at)] for at in _FILLED.findall(marked)]
        return [*in_braces, *self._other_forms(marked, is_html=False)]

    def _marked(self, match: re.Match[str], syntax: Syntax, unknown: list[str]) -> str:
        """Return the mark of a placeholder, and nothing for an unknown name, which is added to `unknown`."""
        text = inner(match)
        if name := self._columns.find(text, syntax):
            return f"\0{self._columns.names.index(name)}\0"
        stripped = text.strip()
        is_name = _IDENTIFIER.fullmatch(stripped) or (
            _WORDS.fullmatch(stripped) and (syntax is not HTML or self._similar(stripped))
        )
        if not is_name:
            return match[0]
        unknown.append(stripped)
        return ""

    def _no_such_column(self, name: str) -> str:
        similar = "".join(f"; did you mean {{{one}}}?" for one in self._similar(name))
        return f"{{{name}}} is used, but there is no such column{similar}"

    def _similar(self, name: str) -> list[str]:
        keys = {key(one): one for one in self._columns.names}
        return [keys[one] for one in difflib.get_close_matches(key(name), keys, 1, LIKENESS)]

    def _other_forms(self, marked: str, *, is_html: bool) -> dict[str, str]:
        """Return columns, each with a placeholder for it that another program would fill in."""
        found: dict[str, str] = {}
        for text in _readings(marked, is_html=is_html):
            for form in self._forms:
                for match in form.finditer(text):
                    name = self._name_in(match[0])
                    if name and not self._is_meant(match[0], name, text, is_html=is_html):
                        found.setdefault(name, self._shown(match[0]))
        return found

    def _name_in(self, form: str) -> str | None:
        if filled := _FILLED.search(form):
            return self._columns.names[int(filled[1])]
        return next((name for name, pattern in self._patterns.items() if pattern.search(form)), None)

    def _is_meant(self, form: str, name: str, text: str, *, is_html: bool) -> bool:
        """Return whether a form stands for itself: an amount of money, a number, an HTML element."""
        if form[0] in "$#" and _FILLED.search(form):
            return name in self._numeric
        element = _ELEMENT.fullmatch(form)
        if not (is_html and element):
            return False
        tag = element[1].lower()
        return len(tag) < MIN_ELEMENT_LENGTH or tag in _VOID_ELEMENTS or f"</{tag}" in text.lower()

    def _shown(self, form: str) -> str:
        text = _FILLED.sub(lambda match: f"{{{self._columns.names[int(match[1])]}}}", form)
        return " ".join(text.split())


def numeric(rows: Iterable[Mapping[str, str]]) -> set[str]:
    """Return the columns that have values, each of which begins with a digit or a sign and a digit."""
    numbers: set[str] = set()
    others: set[str] = set()
    for row in rows:
        for name, value in row.items():
            if value and name not in others:
                (numbers if _NUMBER.match(value) else others).add(name)
    return numbers - others


def _readings(marked: str, *, is_html: bool) -> Iterator[str]:
    """Return a template as written, with percent-encoding decoded, and as the recipient sees it."""
    readings = [marked, unquote(marked)] if "%" in marked else [marked]
    if is_html:
        readings.append(html.unescape(_TAG.sub("", marked)))
    return map(visible, readings)


def _is_searchable(name: str) -> bool:
    letters = "".join(one for one in name if one.isalnum())
    return any(map(str.isalpha, letters)) and (len(letters) >= MIN_ASCII_LENGTH or not letters.isascii())


def _pattern(name: str) -> str:
    r"""Return a pattern for a heading however its words are joined: `First Name`, `first_name`, `FirstName`."""
    return r"[\s_.-]*".join(re.escape(part) for part in _SEPARATORS.split(visible(name)) if part)

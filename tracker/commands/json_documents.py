# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Text becomes JSON documents: one a line, or spread over lines as AWS tools print them; arrays become elements."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from tracker.commands import input_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

MAX_CHARACTERS: Final = 16 << 20  # of one document; an answer of SQS has up to 10 messages of 1 MiB
TOO_LONG: Final = f"longer than {MAX_CHARACTERS >> 20} Mi characters: write one document a line, for example with jq -c"
CUT_OFF_BEFORE: Final = {"{": ("{", "[", '"'), "[": ("[",)}
"""For the first character of a document: beginnings of a line that it cannot contain, unless it was cut off."""

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BEGIN = re.compile(r"[^\s,]")


class Document(msgspec.Struct, frozen=True):
    """A document, or an element of a list, decoded; `line` is where it begins, from 1."""

    line: int
    value: Any


class Wrapper(Document, frozen=True):
    """The other fields of an object whose list is read: the documents that follow are the elements of that list."""


class Broken(msgspec.Struct, frozen=True):
    """Text that cannot be read, and why."""

    line: int
    why: str


def read(pieces: Iterable[str], *, wrappers: Collection[str]) -> Iterator[Document | Broken]:
    """Yield the documents of a text; of an object whose first field is a list named in `wrappers`, yield the elements.

    `wrappers` are in lower case, and match in any capitals.
    """
    for first, text in _texts(pieces):
        try:
            line, counted = first, 0
            for at, kind, value in _documents(text, wrappers):
                line += text.count("\n", counted, at)
                counted = at
                yield kind(line, value)
        except json.JSONDecodeError as error:
            why = error.msg.removesuffix(" at").removesuffix(" starting")
            yield Broken(first, f"not JSON: {why} in line {first + error.lineno - 1}")
        except RecursionError:
            yield Broken(first, "not JSON: nested too deeply")
        except ValueError as error:
            yield Broken(first, str(error))


def _texts(pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of each document: the lines until all brackets are closed."""
    first, depth, size, lines = 0, 0, -1, list[str]()
    for number, line in input_file.lines(pieces, MAX_CHARACTERS):
        if lines and line.startswith(CUT_OFF_BEFORE.get(lines[0][:1], ())):
            yield first, "\n".join(lines)
            lines = []
        if not lines:
            first, depth, size = number, 0, -1
        if size <= MAX_CHARACTERS:
            lines.append(line)
            size += len(line) + 1
        brackets = _STRING.sub("", line)
        depth += sum(map(brackets.count, "{[")) - sum(map(brackets.count, "}]"))
        if depth <= 0 or len(line) > MAX_CHARACTERS:
            yield first, "\n".join(lines)
            lines = []
    yield first, "\n".join(lines)


def _documents(text: str, wrappers: Collection[str]) -> Iterator[tuple[int, type[Document], Any]]:
    """Yield where each document of a text begins, its kind and its value.

    Raises:
        ValueError: the text is not JSON, or too long.
        RecursionError: it is nested too deeply.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(TOO_LONG)
    end = 0
    while begin := _BEGIN.search(text, end):
        value, end = _decode(text, begin.start())
        name = next(iter(value), "") if isinstance(value, dict) else ""
        is_wrapped = name.lower() in wrappers and isinstance(value[name], list)
        if is_wrapped:
            yield begin.start(), Wrapper, {other: value[other] for other in value if other != name}
        if is_wrapped or isinstance(value, list):
            yield from _elements(text, text.index("[", begin.start()) + 1)
        else:
            yield begin.start(), Document, value


def _elements(text: str, at: int) -> Iterator[tuple[int, type[Document], Any]]:
    """Yield the elements of a list; `at` is behind the opening bracket."""
    while (begin := _BEGIN.search(text, at)) and begin[0] != "]":
        value, at = _decode(text, begin.start())
        yield begin.start(), Document, value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _decode(text: str, at: int) -> tuple[Any, int]:
    """Decode the value at a position; return it and where it ends. A raw control character in a string is accepted."""
    try:
        return _decode_strictly(text, at)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character"):
            raise
        try:
            return _decode_leniently(text, at)
        except ValueError:
            raise error from None


_decode_strictly = json.JSONDecoder(parse_constant=_refuse).raw_decode
_decode_leniently = json.JSONDecoder(parse_constant=_refuse, strict=False).raw_decode

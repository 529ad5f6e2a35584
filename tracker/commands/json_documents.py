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
    from collections.abc import Iterable, Iterator

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


class Broken(msgspec.Struct, frozen=True):
    """Text that cannot be read, and why."""

    line: int
    why: str


def read(pieces: Iterable[str], *, wrapper: str) -> Iterator[Document | Broken]:
    """Yield the documents of a text; an object whose first field is the list `wrapper` is read as that list."""
    for first, text in _texts(pieces):
        try:
            line, counted = first, 0
            for at, value in _documents(text, wrapper):
                line += text.count("\n", counted, at)
                counted = at
                yield Document(line, value)
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


def _documents(text: str, wrapper: str) -> Iterator[tuple[int, Any]]:
    """Yield where each document of a text begins, and its value.

    Raises:
        ValueError: the text is not JSON, or too long.
        RecursionError: it is nested too deeply.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(TOO_LONG)
    end = 0
    while begin := _BEGIN.search(text, end):
        value, end = _decode(text, begin.start())
        is_wrapped = isinstance(value, dict) and next(iter(value), "") == wrapper
        if isinstance(value[wrapper] if is_wrapped else value, list):
            yield from _elements(text, text.index("[", begin.start()) + 1)
        else:
            yield begin.start(), value


def _elements(text: str, at: int) -> Iterator[tuple[int, Any]]:
    """Yield where each element of a list begins, and its value; `at` is behind the opening bracket."""
    while (begin := _BEGIN.search(text, at)) and begin[0] != "]":
        value, at = _decode(text, begin.start())
        yield begin.start(), value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


_decode = json.JSONDecoder(parse_constant=_refuse).raw_decode

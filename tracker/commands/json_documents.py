# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: text becomes JSON documents, wherever each ends: one a line, spread over lines, one right behind the other.

Arrays are opened, and so is an object that wraps one, such as `{"Messages": [...]}`: no more than one element is held
at a time. What is broken costs no other document: reading goes on at the next line that looks like the begin of one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_CHARACTERS: Final = 16 << 20  # ten messages of SQS, 1 MiB each, with every quote escaped, are below it
LOOK_AHEAD: Final = 128  # what opens a wrapper is not longer, nor is a name in it

_SEPARATORS = re.compile(r"[\s,\[\]}]*+")
_KEY = re.compile(r'"[^"\\\n]*+"\s*+:\s*+')


class Document(msgspec.Struct, frozen=True):
    """What is no array, decoded; `line` is where it begins, from 1."""

    line: int
    value: Any


class Broken(msgspec.Struct, frozen=True):
    """What is no document, and why."""

    line: int
    why: str


def split(pieces: Iterable[str], *, wrapper: str) -> Iterator[Document | Broken]:
    """Return the documents of a text that comes in pieces of any size, in order; `wrapper` names the list to open."""
    return iter(_Reader(pieces, re.compile(rf'\{{\s*+"{wrapper}"\s*+:\s*+(?=\[)')))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_decode = json.JSONDecoder(parse_constant=_no_number).raw_decode


class _Reader:
    """Decodes at `_at`; what is before it is dropped, but for the begin of its line."""

    def __init__(self, pieces: Iterable[str], wrapper: re.Pattern[str]) -> None:
        self._pieces = iter(pieces)
        self._wrapper = wrapper
        self._text = ""
        self._at = 0
        self._line = 1
        self._is_wrapped = False

    def __iter__(self) -> Iterator[Document | Broken]:
        while self._finds_next():
            key = _KEY.match(self._text, self._at) if self._is_wrapped else None
            line = self._line
            if key:
                self._go_to(key.end())
            try:
                value = self._value()
            except (ValueError, RecursionError) as error:
                yield Broken(line, self._why(error))
                self._skip()
            else:
                if not key:
                    yield Document(line, value)

    def _finds_next(self) -> bool:
        """Go to the next value, into arrays and wrappers; tell whether there is one."""
        while True:
            separators = _SEPARATORS.match(self._text, self._at)
            assert separators  # it may be empty
            self._go_to(separators.end())
            self._is_wrapped &= "}" not in separators[0]
            if len(self._text) - self._at < LOOK_AHEAD and self._takes_more():
                continue
            wrapper = self._wrapper.match(self._text, self._at)
            if not wrapper:
                return self._at < len(self._text)
            self._go_to(wrapper.end())
            self._is_wrapped = True

    def _value(self) -> Any:
        """Decode the value, taking in more of the text for as long as it may be what is missing.

        Raises:
            ValueError: there is none.
            RecursionError: it is nested too deeply.
        """
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if error.pos <= self._text.rfind("\n"):  # else the rest of the line is not there yet
                    raise
                if len(self._text) - self._at > MAX_CHARACTERS:
                    raise ValueError(f"longer than {MAX_CHARACTERS >> 20} Mi characters") from None
                if not self._takes_more():
                    raise
            else:
                if end < len(self._text) or not self._takes_more():  # a number may go on
                    self._go_to(end)
                    return value

    def _skip(self) -> None:
        """Go to the next line that may begin a value and is not indented more than the one that is broken."""
        begin = self._text.rfind("\n", 0, self._at) + 1
        indent = len(self._text[begin : self._at]) - len(self._text[begin : self._at].lstrip(" \t"))
        next_one = re.compile(rf'\n[ \t]{{0,{indent}}}(?=[{{\["])')
        while not (found := next_one.search(self._text, self._at)):
            last_line = self._text.rfind("\n", self._at)
            self._go_to(last_line if last_line >= 0 else len(self._text))
            if not self._takes_more():
                self._go_to(len(self._text))
                return
        self._go_to(found.end())

    def _why(self, error: Exception) -> str:
        match error:
            case json.JSONDecodeError():
                line = self._line + self._text.count("\n", self._at, error.pos)
                return f"no JSON: {error.msg.removesuffix(' at').removesuffix(' starting')} in line {line}"
            case RecursionError():
                return "no JSON: nested too deeply"
            case _:
                return f"no JSON: {error}"

    def _takes_more(self) -> bool:
        """Take in another piece, and let go of what is behind; tell whether there was one."""
        piece = next(self._pieces, "")
        line = self._text.rfind("\n", 0, self._at) + 1
        start = line if self._at - line < LOOK_AHEAD else self._at
        self._text = self._text[start:] + piece
        self._at -= start
        return bool(piece)

    def _go_to(self, at: int) -> None:
        self._line += self._text.count("\n", self._at, at)
        self._at = at

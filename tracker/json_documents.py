# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: bytes become JSON documents, wherever each ends: one a line, spread over lines, one right behind the other.

Arrays are opened, and so is an object that wraps one, such as `{"Messages": [...]}`: no more than one element is held
at a time. What is broken costs no other document: reading goes on at the next line that looks like the begin of one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_BYTES: Final = 16 << 20  # ten messages of SQS, 1 MiB each, with every quote escaped, are below it
LOOK_AHEAD: Final = 64  # what opens a wrapper is not longer

_BRACE, _QUOTE = b'{"'
_STRING = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*+"')
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*+"|["{}\[\]\n]')
_SEPARATORS = re.compile(rb"[ \t\r\n,\[\]}]*+")
_COLON = re.compile(rb"\s*:\s*")
_LITERAL = re.compile(rb"[\w.+-]+")
_BLANKS = re.compile(rb"[ \t]*")


class Document(msgspec.Struct, frozen=True):
    """One object or string, not yet decoded; `line` is where it begins, from 1."""

    line: int
    text: bytes


class Broken(msgspec.Struct, frozen=True):
    """What is no document, and why."""

    line: int
    why: str


class _Place(NamedTuple):
    at: int
    line: int


class _Value(msgspec.Struct):
    """An object that was begun; `indent` is that of its line, `doubt` where else the next one may have begun."""

    start: int
    line: int
    indent: int
    depth: int = 0
    doubt: _Place | None = None


class _NeedsMore(Exception):
    """What there is of the file does not tell how it goes on."""


def split(chunks: Iterable[bytes], *, wrapper: str) -> Iterator[Document | Broken]:
    """Return the documents of a file that comes in pieces of any size, in order; `wrapper` names the list to open."""
    scanner = _Scanner(re.compile(rb'\{\s*"%s"\s*:\s*\[' % wrapper.encode()))
    for chunk in chunks:
        yield from scanner.feed(chunk)
    yield from scanner.feed(b"", is_last=True)


class _Scanner:
    """Reads tokens at `_at`; what is before it and belongs to no unfinished value is dropped."""

    def __init__(self, wrapper: re.Pattern[bytes]) -> None:
        self._wrapper = wrapper
        self._text = b""
        self._at = 0
        self._line = 1
        self._is_last = False
        self._value: _Value | None = None
        self._skipping: int | None = None  # until a line that is not indented more than this begins a document
        self._is_wrapped = False
        self._is_other = False  # the value that comes belongs to another key of the wrapper

    def feed(self, chunk: bytes, *, is_last: bool = False) -> Iterator[Document | Broken]:
        """Take a piece; return what is whole now."""
        self._text += chunk
        self._is_last = is_last
        try:
            while True:
                if found := self._step():
                    yield found
        except _NeedsMore:
            self._drop()

    def _step(self) -> Document | Broken | None:
        if self._skipping is not None:
            self._skip(self._skipping)
            return None
        if self._value:
            return self._inside(self._value)
        return self._between()

    def _drop(self) -> None:
        value = self._value
        start = value.start if value else self._at
        newline = self._text.rfind(b"\n", 0, start) + 1
        if not self._text[newline:start].strip(b" \t"):  # by how much the line is indented will matter
            start = newline
        self._text = self._text[start:]
        self._at -= start
        if value:
            value.start -= start
            if value.doubt:
                value.doubt = _Place(value.doubt.at - start, value.doubt.line)

    def _between(self) -> Document | Broken | None:
        separators = _SEPARATORS.match(self._text, self._at)
        assert separators  # it may be empty
        self._go_to(separators.end())
        if b"}" in separators[0]:
            self._is_wrapped = False
        if self._at == len(self._text):
            raise _NeedsMore
        if self._text[self._at] == _BRACE:
            self._begin()
            return None
        if self._text[self._at] == _QUOTE:
            return self._string()
        if self._is_other and (literal := _LITERAL.match(self._text, self._at)):
            self._need(literal.end())
            self._go_to(literal.end())
            self._is_other = False
            return None
        return self._break(self._new_value(), "neither an object nor a string")

    def _begin(self) -> None:
        self._need(self._at + LOOK_AHEAD)
        if wrapper := self._wrapper.match(self._text, self._at):
            self._go_to(wrapper.end())
            self._is_wrapped = True
        else:
            self._value = self._new_value()

    def _string(self) -> Document | Broken | None:
        string = _STRING.match(self._text, self._at)
        if not string:
            return self._unfinished_string(self._new_value())
        colon = _COLON.match(self._text, string.end()) if self._is_wrapped else None
        self._need(colon.end() if colon else string.end())
        if colon:
            self._go_to(colon.end())
            self._is_other = True
            return None
        return self._finished(self._at, self._line, string.end())

    def _inside(self, value: _Value) -> Document | Broken | None:
        for token in _TOKEN.finditer(self._text, self._at):
            match token[0]:
                case b"{" | b"[":
                    value.depth += 1
                case b"}" | b"]":
                    value.depth -= 1
                    if not value.depth:
                        self._value = None
                        return self._finished(value.start, value.line, token.end())
                case b"\n":
                    self._at = token.start()
                    if self._ends_unfinished(value):
                        return self._break(value, "not finished where the next one begins")
                    self._line += 1
                case b'"':
                    self._at = token.start()
                    return self._unfinished_string(value)
        self._at = len(self._text)
        return self._run_out(value)

    def _ends_unfinished(self, value: _Value) -> bool:
        """Tell at a line break inside a value whether the next line begins another one.

        It looks so if it begins with `{` and is not indented. After `,`, `:` or `[` it may be a part all the same.
        """
        if not self._begins_next(value.indent, b"{"):
            return False
        if self._last_character() not in b",:[":
            return True
        value.doubt = value.doubt or _Place(self._at + 1, self._line + 1)
        return False

    def _last_character(self) -> bytes:
        at = self._at - 1
        while self._text[at] in b" \t\r\n":
            at -= 1
        return self._text[at : at + 1]

    def _begins_next(self, indent: int, characters: bytes) -> bool:
        blanks = _BLANKS.match(self._text, self._at + 1)
        assert blanks  # it may be empty
        self._need(blanks.end())
        first = self._text[blanks.end() : blanks.end() + 1]
        return len(blanks[0]) <= indent and bool(first) and first in characters

    def _unfinished_string(self, value: _Value) -> Broken:
        newline = self._text.find(b"\n", self._at)
        if newline < 0:
            return self._run_out(value)
        self._at = newline
        return self._break(value, "broken off inside a string")

    def _run_out(self, value: _Value) -> Broken:
        """Wait for the rest of a value, unless there is none, or it is too long."""
        if not self._is_last and len(self._text) - value.start <= MAX_BYTES:
            raise _NeedsMore
        self._at = len(self._text)
        why = "not finished at the end of the file" if self._is_last else f"longer than {MAX_BYTES >> 20} MiB"
        return self._break(value, why)

    def _break(self, value: _Value, why: str) -> Broken:
        """Give a value up; go on where the next one may have begun, or at a line from here on."""
        self._value = None
        self._is_other = False
        if value.doubt:
            self._at, self._line = value.doubt
        else:
            self._skipping = value.indent
        return Broken(value.line, why)

    def _skip(self, indent: int) -> None:
        newline = self._text.find(b"\n", self._at)
        self._at = newline if newline >= 0 else len(self._text)
        if newline < 0:
            raise _NeedsMore
        begins = self._begins_next(indent, b'{["')
        self._go_to(newline + 1)
        if begins:
            self._skipping = None

    def _finished(self, start: int, line: int, end: int) -> Document | None:
        document = None if self._is_other else Document(line, self._text[start:end])
        self._is_other = False
        self._at = end
        return document

    def _go_to(self, at: int) -> None:
        self._line += self._text.count(b"\n", self._at, at)
        self._at = at

    def _new_value(self) -> _Value:
        """Begin a value at `_at`; its line counts as not indented where something else is before it."""
        start = self._text.rfind(b"\n", 0, self._at) + 1
        blanks = _BLANKS.match(self._text, start, self._at)
        return _Value(self._at, self._line, len(blanks[0]) if blanks else 0)

    def _need(self, end: int) -> None:
        """Insist on text behind `end`, unless there is no more."""
        if end >= len(self._text) and not self._is_last:
            raise _NeedsMore

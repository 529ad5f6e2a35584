# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: values by number in a temporary database, so that a mailing of a million rows needs little memory.

SQLite holds a small database in memory, and a larger one in a temporary file without a name.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec

CACHE_KIBIBYTES: Final = 4096
PAGE: Final = 200  # values are read so many at a time, so that the reader may replace them

T = TypeVar("T")


class StorageError(Exception):
    """The temporary file cannot be written."""


class Values(MutableMapping[int, T]):
    """Values of one type by number, in the order of the numbers."""

    def __init__(self, kind: type[T]) -> None:
        """Begin empty."""
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._database = _Database("CREATE TABLE stored (number INTEGER PRIMARY KEY, value BLOB)")

    def __getitem__(self, number: int) -> T:
        """Return a value, or raise KeyError."""
        for (value,) in self._database.rows("SELECT value FROM stored WHERE number = ?", number):
            return self._decode(value)
        raise KeyError(number)

    def __setitem__(self, number: int, value: T) -> None:
        """Add or replace a value."""
        self._database.change("INSERT OR REPLACE INTO stored VALUES (?, ?)", number, self._encode(value))

    def __delitem__(self, number: int) -> None:
        """Remove a value, or raise KeyError."""
        if not self._database.change("DELETE FROM stored WHERE number = ?", number):
            raise KeyError(number)

    def __len__(self) -> int:
        """Return how many values there are."""
        return int(self._database.rows("SELECT count(*) FROM stored")[0][0])

    def __iter__(self) -> Iterator[int]:
        """Return the numbers."""
        return (number for number, _ in self.pairs())

    def pairs(self) -> Iterator[tuple[int, T]]:
        """Return numbers and values; both may be changed meanwhile."""
        read = "SELECT number, value FROM stored WHERE number > ? ORDER BY number LIMIT ?"
        last = -1
        while page := self._database.rows(read, last, PAGE):
            yield from ((number, self._decode(value)) for number, value in page)
            last = page[-1][0]


class FirstLines:
    """The line on which each text was found first."""

    def __init__(self) -> None:
        """Begin empty."""
        self._database = _Database("CREATE TABLE first (text TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")

    def add(self, text: str, line: int) -> int:
        """Return the line where the text was found first: `line` if it is new."""
        if self._database.change("INSERT OR IGNORE INTO first VALUES (?, ?)", text, line):
            return line
        return int(self._database.rows("SELECT line FROM first WHERE text = ?", text)[0][0])


class _Database:
    """A temporary database with one table."""

    def __init__(self, table: str) -> None:
        with _translated():
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
            for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIBIBYTES}"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute(table)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return the rows that a query finds."""
        with _translated():
            return self._connection.execute(query, values).fetchall()

    def change(self, statement: str, *values: Any) -> int:
        """Run a statement, and return how many rows it has changed."""
        with _translated():
            return self._connection.execute(statement, values).rowcount


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"a temporary file cannot be written: {error}: is there space in TMPDIR?") from error

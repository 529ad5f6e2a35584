# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the rows of a CSV file with the lines where they begin. Commas, semicolons and tabs separate the cells.

Excel separates with semicolons where a comma is the decimal sign, and may write `sep=;` into the first line.
"""

from __future__ import annotations

import csv
import itertools
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Line = tuple[int, list[str]]
    """The line where a row begins, and its cells."""

DELIMITERS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_QUOTED: Final = re.compile(r'"[^"]*"')
_SEPARATOR: Final = re.compile(r"\s*sep=(.)\s*\Z", re.IGNORECASE | re.DOTALL)
_REASONS: Final = {
    "unexpected end of data": "the quote that begins a cell here is not closed",
    "line contains NUL": "a NUL character",
}


class Malformed(Exception):
    """The file cannot be separated into cells; the message names the line."""


def read(lines: Iterable[str], delimiter: str = "") -> Iterator[Line]:
    """Yield the header, then the rows that are not empty, with cells without blanks at their ends.

    Empty cells at the end of the header, and behind its columns in a row, are left out: Excel writes them for columns
    that once had content (wireservice/csvkit#426).

    Raises:
        Malformed: quotes are wrong, or a cell is too large.
    """
    rest = iter(lines)
    first = next(rest, "")
    skipped = 0
    if separator := _SEPARATOR.match(first):
        delimiter, skipped, first = delimiter or separator[1], 1, next(rest, "")
    reader = csv.reader(itertools.chain([first], rest), delimiter=delimiter or _found_in(first), strict=True)
    columns = 0  # unknown before the header
    is_header = True
    while True:
        line = reader.line_num + skipped + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise Malformed(f"line {line}: {_REASONS.get(str(error), str(error))}") from error
        if is_header:
            columns = max((at for at, name in enumerate(cells, 1) if name), default=0)
        if is_header or any(cells):
            yield line, cells if any(cells[columns:]) else cells[:columns]
        is_header = False


def _found_in(header: str) -> str:
    """Return the delimiter that appears most often outside quotes."""
    plain = _QUOTED.sub("", header)
    return max(DELIMITERS.values(), key=plain.count)

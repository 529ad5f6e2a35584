# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: values, sizes, durations and tables as text for a terminal. Control characters are escaped."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from datetime import UTC
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

COLUMN_GAP: Final = "  "
INDENT: Final = "    "
LEAST_WIDTH: Final = 8  # of a column that is cut
KIBI: Final = 1024
DURATIONS: Final = (("days", 172_800, 86_400), ("hours", 7_200, 3_600), ("minutes", 120, 60), ("seconds", 0, 1))
"""A unit, the shortest duration that is written in it, and its length; both in seconds."""
_COLOUR: Final = re.compile("\x1b\\[[0-9;]*m")
_WIDE: Final = frozenset("WF")  # Unicode Standard Annex 11: characters of two columns


def table(rows: Sequence[Sequence[object]], head: Sequence[str] = (), columns: int | None = None) -> str:
    """Return aligned columns, one line for each row. A column of numbers is aligned at the right.

    In a terminal with so many `columns`, the cells of the widest columns of the table are cut.
    """
    lines = [[printable(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    while columns and sum(widths) + len(COLUMN_GAP) * (len(widths) - 1) > columns and max(widths) > LEAST_WIDTH:
        widths[widths.index(max(widths))] -= 1
    lines = [[clipped(cell, width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    numeric = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(widths))]
    return "\n".join(
        COLUMN_GAP.join(_padded(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip() for line in lines
    )


def printable(value: object) -> str:
    """Return a value as one line without control characters; an empty one is `-`, a flag `yes` or `no`."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return escaped(str(value))


def escaped(text: str, keep: str = "") -> str:
    """Return a text without invisible characters, which might change the terminal, except blanks and those to keep."""
    if text.isprintable():
        return text
    visible = (one.isprintable() or one in keep for one in text)
    return "".join(
        one if seen else one.encode("unicode_escape").decode() for one, seen in zip(text, visible, strict=True)
    )


def size(count: int) -> str:
    """Return a number of bytes in the largest unit that it fills: `64 KiB`."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= KIBI and (larger := next(units, "")):
        value, unit = value / KIBI, larger
    return f"{value:.4g} {unit}"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that it fills twice: `4 days`, but `24 hours`."""
    unit, _, length = next(one for one in DURATIONS if seconds >= one[1])
    return f"{seconds / length:.3g} {unit}"


def time(at: datetime) -> str:
    """Return a time in UTC with its zone, as RFC 3339 writes it: `2026-01-02T03:04:05Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def clipped(text: str, columns: int | None) -> str:
    """Return a line that fits into so many columns; `None` is no limit."""
    if columns is None or _width(text) <= columns:
        return text
    end = max(columns - 1, 0)
    while _width(text[:end]) > columns - 1:
        end -= 1
    return f"{text[:end]}\u2026"


def in_lines(head: str, parts: Sequence[str], columns: int | None) -> str:
    """Return a line; where it is too long for the terminal, `parts` are in further lines."""
    line = COLUMN_GAP.join((head, *parts)).rstrip()
    if columns is None or _width(line) <= columns:
        return line
    rest = textwrap.wrap(COLUMN_GAP.join(part.strip() for part in parts), max(columns - len(INDENT), 20))
    return "\n".join((head.rstrip(), *(INDENT + one for one in rest)))


def hanging(head: str, text: str, indent: int, columns: int | None) -> str:
    """Return a text behind a head; where it is too long for the terminal, its further lines are indented."""
    if columns is None:
        return f"{head}{COLUMN_GAP}{text}"
    first, rest = " " * (_width(head) + len(COLUMN_GAP)), " " * indent
    lines = textwrap.wrap(text, max(columns, len(first) + 20), initial_indent=first, subsequent_indent=rest)
    return head + "\n".join(lines or [""])[_width(head) :]


def _padded(text: str, width: int, at_right: bool) -> str:  # noqa: FBT001 - a column of flags
    blanks = " " * (width - _width(text))
    return blanks + text if at_right else text + blanks


def _width(text: str) -> int:
    """Return the columns of a text; colours take none."""
    text = _COLOUR.sub("", text)
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in _WIDE else 1 for one in text
    )

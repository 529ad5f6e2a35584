# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: rows as aligned columns, sizes and times as people read them. What could steer a terminal is shown instead."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP: Final = "  "
KIBI: Final = 1024
UNITS: Final = (("days", 172_800, 86_400), ("hours", 7_200, 3_600), ("minutes", 120, 60), ("seconds", 0, 1))
"""Each with the least time that is told in it: a day is 24 hours, two are days."""
_WIDE: Final = frozenset("WF")  # Unicode Standard Annex 11: two columns


def render(rows: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Return the lines; numbers stand at the right of their column, everything else at the left."""
    cells = [[printable(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(widths))]
    return "\n".join(GAP.join(_padded(*one) for one in zip(row, widths, right, strict=True)).rstrip() for row in cells)


def printable(value: object) -> str:
    """Return a value as one line without control characters; nothing and false are `-` and `no`."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def size(count: int) -> str:
    """Write a number of bytes: `64 KiB`."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= KIBI and (larger := next(units, "")):
        value, unit = value / KIBI, larger
    return f"{value:.4g} {unit}"


def duration(seconds: float) -> str:
    """Write a time in the largest unit that it fills: `4 days`."""
    unit, _, length = next(one for one in UNITS if seconds >= one[1])
    return f"{seconds / length:.3g} {unit}"


def _padded(text: str, width: int, right: bool) -> str:  # noqa: FBT001 - a column of flags
    blanks = " " * (width - _width(text))
    return blanks + text if right else text + blanks


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in _WIDE else 1 for one in text
    )

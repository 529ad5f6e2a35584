# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How results are shown: a plain table for the terminal, and the same as a table of Markdown for the documentation."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.row import Result, Row

HEAD = ("case", "what", "figure", "spread", "service is", "p50 ms", "p99 ms", "CPU us", "peak MB")
_TEXT_COLUMNS = 2
_EXACT_BELOW = 100


def plain(result: Result) -> str:
    """Return the table of one scenario, its columns as wide as they need to be."""
    lines = [HEAD, *_lines(result)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = [_aligned(line, widths) for line in lines]
    return "\n".join([f"{result.scenario}: {result.title}", *(f"  {line}" for line in shown), ""])


def markdown(results: Sequence[Result]) -> str:
    """Return one table of all scenarios, in the form of docs/performance.md."""
    head = ("scenario", *HEAD)
    lines = [head, ("---", "---", "---", *["---:"] * (len(HEAD) - _TEXT_COLUMNS))]
    for result in results:
        lines += [(f"`{result.scenario}`", *line) for line in _lines(result)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _lines(result: Result) -> Iterator[tuple[str, ...]]:
    for case, rows in groupby(result.rows, key=lambda row: row.case):
        in_case = list(rows)
        service = next((row for row in in_case if row.role == "service"), None)
        for row in in_case:
            yield _line(case, row, service)


def _line(case: str, row: Row, service: Row | None) -> tuple[str, ...]:
    spread = "" if row.low == row.high else f"{number(row.low)}-{number(row.high)}"
    compared = service is not None and row.role in {"limit", "naive"}
    ratio = f"{number(service.times(row))} x" if service and compared else ""
    figure = f"{number(row.value)} {row.unit}" if row.unit != "/s" else f"{number(row.value)}/s"
    shown = (row.p50_ms, row.p99_ms, row.cpu_us, row.peak_mb)
    return (case, row.name, figure, spread, ratio, *("" if one is None else number(one) for one in shown))


def number(value: float) -> str:
    """Return a small number with three digits, and a large one without decimals."""
    return f"{value:.3g}" if value < _EXACT_BELOW else f"{value:,.0f}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = zip(line, widths, strict=True)
    return "  ".join(
        cell.ljust(width) if column < _TEXT_COLUMNS else cell.rjust(width) for column, (cell, width) in enumerate(cells)
    ).rstrip()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Compare the services with another version or program: run each scenario in turn, and compute the ratio of a pair."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tests.bench import scenarios, table
from tests.bench.program import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.options import Options
    from tests.bench.row import Result, Row


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check out a revision in a second directory during the block."""
    with tempfile.TemporaryDirectory(prefix="lfx-email-base-") as directory:
        base = Path(directory) / "base"
        _git("worktree", "add", "--quiet", "--detach", str(base), revision)
        try:
            yield base
        finally:
            _git("worktree", "remove", "--force", str(base))


async def in_turn(name: str, options: Options, base: Options) -> list[tuple[Result, Result]]:
    """Run a scenario with the base's code or program and with ours, `runs` times each; the order alternates."""
    ours, theirs = (replace(one, runs=1, alone=True) for one in (options, base))
    pairs: list[tuple[Result, Result]] = []
    for turn in range(options.runs):
        results = {}
        for one in (theirs, ours) if turn % 2 == 0 else (ours, theirs):
            results[one is ours] = await scenarios.run(name, one)
        pairs.append((results[False], results[True]))
    return pairs


def summary(name: str, pairs: Sequence[tuple[Result, Result]]) -> str:
    """Return a line for each case: both medians, and the ratio with its spread."""
    lines = [f"{name}: more than 1 x is better than the base"]
    for base_rows in zip(*(_service_rows(base) for base, _ in pairs), strict=True):
        ours = [_counterpart(row, result) for row, (_, result) in zip(base_rows, pairs, strict=True)]
        lines.append(_line(base_rows, ours))
    return "\n".join([*lines, ""])


def _line(base: Sequence[Row], ours: Sequence[Row]) -> str:
    ratios = [our.times(their) for our, their in zip(ours, base, strict=True)]
    figures = " -> ".join(table.number(statistics.median(row.value for row in rows)) for rows in (base, ours))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    what = f"{base[0].case} {base[0].name}".strip()
    return (
        f"  {what:44} {figures:>18} {base[0].unit:3} {statistics.median(ratios):6.2f} x  ({spread}){_cpu(base, ours)}"
    )


def _cpu(base: Sequence[Row], ours: Sequence[Row]) -> str:
    medians = [
        statistics.median(known) if (known := [row.cpu_us for row in rows if row.cpu_us]) else 0
        for rows in (base, ours)
    ]
    return f"  CPU {medians[0]:,.0f} -> {medians[1]:,.0f} us, {medians[0] / medians[1]:.2f} x" if all(medians) else ""


def _service_rows(result: Result) -> list[Row]:
    return [row for row in result.rows if row.role == "service"]


def _counterpart(row: Row, result: Result) -> Row:
    return next(one for one in _service_rows(result) if (one.case, one.unit) == (row.case, row.unit))


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True)  # noqa: S603, S607 - our own checkout

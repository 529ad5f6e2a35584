# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads docs/operations.md (metrics, labels, alerts, log events) for the tests that compare it with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared import contract

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent
TEXT: Final = (ROOT / "docs" / "operations.md").read_text()
ERRORS: Final = {value for name, value in vars(contract).items() if name.isupper() and isinstance(value, str)}


def metrics(process: str) -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of each metric of a process, by its name in Prometheus."""
    found = {}
    for cell, kind, *_ in rows("Metric"):
        for span in spans(cell):
            match = re.fullmatch(rf"((?:email_{process}|process|python)_\w+)(?:\{{(.+)\}})?", span)
            if match:
                found[match[1]] = kind, set((match[2] or "").split(",")) - {""}
    return found


def values(metric: str, label: str) -> set[str]:
    """Return the values that a label of a metric may have."""
    for name, of, listed in rows("Label"):
        if spans(name) == [label] and metric in spans(of):
            return set(spans(listed)) | (ERRORS if "contract.md" in listed else set())
    return set()


def alerts() -> list[str]:
    """Return the listed alerts."""
    return [name for cell, *_ in rows("Alert") for name in spans(cell)]


def events(*headings: str) -> dict[str, set[str]]:
    """Return the levels of each log event under these headings, by default under all."""
    found: dict[str, set[str]] = {}
    for heading in headings or ("Of both", "Of the relay", "Of the tracker"):
        section = TEXT.partition(f"\n### {heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        for names, levels, *_ in rows("`msg`", section):
            for name in spans(names):
                found.setdefault(name, set()).update(levels.split(", "))
    return found


def rows(first_column: str, text: str = TEXT) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables that begin with this column."""
    for lines in re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE):
        head, _, *body = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines.splitlines()]
        if head[0] == first_column:
            yield from body


def spans(text: str) -> list[str]:
    """Return the texts in backticks."""
    return re.findall(r"`([^`]+)`", text)

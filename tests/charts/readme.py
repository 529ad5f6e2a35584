# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Write the table of values into a chart's README, from the comments that helm-docs reads; run by `make chart-docs`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.charts import chart

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGIN: Final = "<!-- values: written by `make chart-docs` -->\n"
END: Final = "<!-- end of values -->\n"
_TYPES: Final[dict[type, str]] = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object"}


class Value(NamedTuple):
    """A value and its comment."""

    path: tuple[str, ...]
    default: Any
    description: str


def documented(process: str) -> list[Value]:
    """Return every value with a comment `# -- …` directly above it."""
    lines = (chart.path(process) / "values.yaml").read_text().splitlines()
    defaults = chart.values(process)
    return [Value(path, _at(defaults, path), description) for path, description in _comments(lines) if description]


def page(process: str) -> Path:
    """Return the path of the README."""
    return chart.path(process) / "README.md"


def with_table(process: str) -> str:
    """Return the README with the current table."""
    before, _, rest = page(process).read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [
        f"| {'.'.join(value.path)} | {_TYPES[type(value.default)]} | `{_shown(value)}` | {value.description} |\n"
        for value in documented(process)
    ]
    head = "| Key | Type | Default | Description |\n|-----|------|---------|-------------|\n"
    return before + BEGIN + "\n" + head + "".join(rows) + "\n" + END + after


def _comments(lines: list[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each key and the comment above it."""
    open_keys: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in lines:
        if found := re.match(r" *# (?:-- )?(.*)", line):
            comment = [found[1]] if "# -- " in line else comment and [*comment, found[1]]
        elif key := re.match(r"( *)([\w-]+):", line):
            open_keys = [one for one in open_keys if one[0] < len(key[1])] + [(len(key[1]), key[2])]
            yield tuple(name for _, name in open_keys), " ".join(comment)
            comment = []
        else:
            comment = []


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def _shown(value: Value) -> str:
    text = json.dumps(value.default, ensure_ascii=False)
    return text if len(text) <= 100 else "see values.yaml"


def main() -> None:
    """Write the tables of both charts."""
    for process in chart.PROCESSES:
        page(process).write_text(with_table(process))


if __name__ == "__main__":
    main()

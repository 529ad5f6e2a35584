# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The output of the demo: with colours on a terminal, otherwise plain text, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from io import TextIOWrapper
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text
from rich.theme import Theme

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from tests.demo.check import Check

WIDTH = 80
INDENT = "  "
GAP = "  "
_THEME = Theme(
    {
        "heading": "bold cyan",
        "name": "cyan",
        "quiet": "dim",
        "right": "bold green",
        "wrong": "bold red",
    }
)
_json = JSONHighlighter()


def on(file: TextIO) -> Screen:
    """Write to a terminal or to any other file."""
    is_terminal = file.isatty()
    if isinstance(file, TextIOWrapper):
        file.reconfigure(errors="replace")  # do not fail in a locale without UTF-8
    console = Console(
        file=file,
        theme=_THEME,
        force_terminal=is_terminal,
        color_system="auto" if is_terminal else None,
        emoji=False,
        highlight=False,
        markup=False,
    )
    return Screen(console)


class Screen:
    """Prints the steps and stores the checks."""

    def __init__(self, console: Console) -> None:
        self.checks: list[Check] = []
        self._console = console
        encoding = console.encoding.lower()
        self._tick, self._cross = ("✓", "✗") if encoding.startswith("utf") else ("ok", "WRONG")

    @property
    def failed(self) -> list[Check]:
        """The failed checks."""
        return [check for check in self.checks if not check.holds]

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Show on a terminal that the demo waits."""
        return self._console.status(Text(text, "quiet"))

    def title(self, text: str) -> None:
        """Print the title."""
        self._print(Text(text, "bold"))

    def heading(self, text: str, note: str = "") -> None:
        """Print the heading of a step."""
        self._print(Text(""))
        self._print(Text.assemble((text, "heading"), (f" · {note}" if note else "", "quiet")))

    def line(self, text: str, style: str = "") -> None:
        """Print a line."""
        self._print(Text(f"{INDENT}{text}" if text else "", style))

    def rows(self, rows: Sequence[Sequence[str]], *, like: Sequence[Sequence[str]] = ()) -> None:
        """Print rows in columns, wide enough for these rows and those of `like`."""
        widths = [max(map(cell_len, column)) for column in zip(*rows, *like, strict=True)]
        for row in rows:
            first, *rest = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
            self._print(Text.assemble(INDENT, (first, "name"), GAP, GAP.join(rest).rstrip()))

    def exchange(self, sent: str, about: str, reply: bytes) -> None:
        """Print a request and its reply."""
        self._print(Text.assemble(INDENT, ("→ ", "quiet"), (sent, "name"), GAP, about))
        mark = "← "
        for line in textwrap.wrap(reply.decode().replace(",", ", "), WIDTH - len(INDENT) - len(mark)):
            self._print(Text.assemble(INDENT, (mark, "quiet"), _json(line.replace(", ", ","))))
            mark = "  "

    def wire(self, lines: Iterable[str]) -> None:
        """Print lines of a mail as received."""
        for line in lines:
            width = WIDTH - len(INDENT) - len("│ ")
            shown = line if len(line) <= width else f"{line[: width - 1]}…"
            self._print(Text.assemble(INDENT, ("│ ", "quiet"), shown) if shown else Text(f"{INDENT}│", "quiet"))

    def check(self, check: Check) -> None:
        """Print a check; of a failed one also the expected and the actual value."""
        self.checks.append(check)
        mark, style = (self._tick, "right") if check.holds else (self._cross, "wrong")
        self._print(Text.assemble(INDENT, (mark, style), " ", check.claim))
        if not check.holds:
            expected, actual = check.difference
            self._print(Text.assemble(INDENT * 2, ("expected  ", "quiet"), expected))
            self._print(Text.assemble(INDENT * 2, ("actual    ", "quiet"), actual))

    def command(self, *words: str) -> None:
        """Print a command that can be pasted into a shell."""
        lines = [""]
        for word in words:
            if lines[-1] and len(INDENT) + len(lines[-1]) + len(f" {word} \\") > WIDTH:
                lines[-1] += " \\"
                lines.append(INDENT + word)
            else:
                lines[-1] += f" {word}" if lines[-1] else word
        for line in lines:
            self._print(Text(INDENT + line))

    def verdict(self, text: str, *, is_right: bool) -> None:
        """Print the result of the demo."""
        self._print(Text(""))
        self._print(Text(text, "right" if is_right else "wrong"))

    def raw(self, lines: Iterable[str]) -> None:
        """Print lines of a log without a limit of their width."""
        for line in lines:
            self._print(Text(line, "quiet"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

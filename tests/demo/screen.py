# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How the demo looks: with colours on a terminal, as plain text anywhere else, and never wider than 80 columns."""

from __future__ import annotations

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
        file.reconfigure(errors="replace")  # a locale without UTF-8 is no reason to fail
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
    """Prints, and remembers the checks."""

    def __init__(self, console: Console) -> None:
        self.checks: list[Check] = []
        self._console = console
        encoding = console.encoding.lower()
        self._tick, self._cross = ("✓", "✗") if encoding.startswith("utf") else ("ok", "WRONG")

    @property
    def failed(self) -> list[Check]:
        """The checks that did not hold."""
        return [check for check in self.checks if not check.holds]

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Show on a terminal that something goes on."""
        return self._console.status(Text(text, "quiet"))

    def title(self, text: str) -> None:
        """Say what this is."""
        self._print(Text(text, "bold"))

    def heading(self, text: str, note: str = "") -> None:
        """Begin a step."""
        self._print(Text(""))
        self._print(Text.assemble((text, "heading"), (f" · {note}" if note else "", "quiet")))

    def line(self, text: str, style: str = "") -> None:
        """Say something."""
        self._print(Text(f"{INDENT}{text}" if text else "", style))

    def rows(self, rows: Sequence[Sequence[str]], *, like: Sequence[Sequence[str]] = ()) -> None:
        """Show columns as wide as these rows, and those they shall look like, need them."""
        widths = [max(map(cell_len, column)) for column in zip(*rows, *like, strict=True)]
        for row in rows:
            first, *rest = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
            self._print(Text.assemble(INDENT, (first, "name"), GAP, GAP.join(rest).rstrip()))

    def exchange(self, sent: str, about: str, reply: bytes) -> None:
        """Show a request and its reply."""
        self._print(Text.assemble(INDENT, ("→ ", "quiet"), (sent, "name"), GAP, about))
        self._print(Text.assemble(INDENT, ("← ", "quiet"), _json(reply.decode())))

    def wire(self, lines: Iterable[str]) -> None:
        """Show lines as they crossed the wire."""
        for line in lines:
            room = WIDTH - len(INDENT) - len("│ ")
            shown = line if len(line) <= room else f"{line[: room - 1]}…"
            self._print(Text.assemble(INDENT, ("│ ", "quiet"), shown) if shown else Text(f"{INDENT}│", "quiet"))

    def check(self, check: Check) -> None:
        """Tick it, or say what was expected and what came."""
        self.checks.append(check)
        mark, style = (self._tick, "right") if check.holds else (self._cross, "wrong")
        self._print(Text.assemble(INDENT, (mark, style), " ", check.claim))
        if not check.holds:
            expected, came = check.difference
            self._print(Text.assemble(INDENT * 2, ("expected  ", "quiet"), expected))
            self._print(Text.assemble(INDENT * 2, ("came      ", "quiet"), came))

    def command(self, *words: str) -> None:
        """Show what can be pasted into a shell."""
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
        """Say how it ended."""
        self._print(Text(""))
        self._print(Text(text, "right" if is_right else "wrong"))

    def raw(self, lines: Iterable[str]) -> None:
        """Show lines of somebody else, whatever their width."""
        for line in lines:
            self._print(Text(line, "quiet"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

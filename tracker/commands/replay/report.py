# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What is known of a replay so far: told event by event, counted, and what failed kept in a file."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Final, Self, get_args

import click
import msgspec

from shared.commands import command, formatting
from tracker.commands.json_documents import Broken
from tracker.commands.replay import saved_messages as replay_file
from tracker.commands.replay.replayer import NOT_TRIED, OutcomeName

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from tracker.commands.replay.replayer import Result
    from tracker.commands.replay.saved_messages import Message

TOLD_EVERY_SECONDS: Final = 10.0
PLAIN: Final = frozenset({"applied", "duplicate"})
COLOURS: Final = {"applied": "green", "malformed": "red", "failed": "red", "unmatched": "yellow"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay is told besides its file."""

    failed_to: Path | None
    dry_run: bool
    announce: bool
    as_json: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How many events came to what; `suppressed` counts addresses, `up_to_line` is how far all of them are done."""

    dry_run: bool
    events: int
    applied: int
    duplicate: int
    unmatched: int
    ignored: int
    malformed: int
    failed: int
    suppressed: int
    up_to_line: int


class Tally:
    """Open it for one replay."""

    def __init__(self, options: Options) -> None:
        """Begin with nothing."""
        self._options = options
        self._counts: Counter[str] = Counter()
        self._suppressed = 0
        self._up_to_line = 0
        self._failed: BinaryIO | None = None
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        """Open nothing: a file of what failed is there only if anything did."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file of what failed."""
        if self._failed:
            self._failed.close()

    def take(self, batch: Sequence[Message | Broken], results: Sequence[Result | None]) -> None:
        """Take what became of a batch; what is None was not begun."""
        has_gap = False
        for message, result in zip(batch, results, strict=True):
            if result is None:
                has_gap = True
                continue
            self._counts[result.outcome] += 1
            self._suppressed += result.suppressed
            self._tell(result)
            if result.outcome == "failed" and not isinstance(message, Broken):
                self._keep(message)
            if not has_gap:
                self._up_to_line = result.line
        if time.monotonic() - self._told_at >= TOLD_EVERY_SECONDS:
            self._told_at = time.monotonic()
            command.say(f"{self._counts.total():,} events so far, up to line {self._up_to_line:,}")

    def summary(self) -> Summary:
        """Return the counts."""
        return Summary(
            dry_run=self._options.dry_run,
            events=self._counts.total(),
            **{name: self._counts[name] for name in get_args(OutcomeName)},
            suppressed=self._suppressed,
            up_to_line=self._up_to_line,
        )

    def _tell(self, result: Result) -> None:
        if self._options.as_json:
            command.print_json(result)
        elif self._options.dry_run or (result.outcome not in PLAIN and result.detail != NOT_TRIED):
            outcome = click.style(f"{result.outcome:9}", fg=COLOURS.get(result.outcome))
            about = f"{result.kind or '-':9}  {formatting.printable(result.email_id):36}"
            detail = formatting.printable(result.detail) if result.detail else ""
            click.echo(f"line {result.line:<6}  {outcome}  {about}  {detail}".rstrip())

    def _keep(self, message: Message) -> None:
        if not self._options.failed_to or self._options.dry_run:
            return
        if not self._failed:
            self._failed = self._options.failed_to.open("xb")
        self._failed.write(replay_file.saved(message))
        self._failed.flush()

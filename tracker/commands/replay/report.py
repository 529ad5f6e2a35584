# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reports a replay: each event, the counts and the exit status; keeps the messages that failed in a file."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Final, Self, get_args

import click
import msgspec

from shared.commands import command, formatting
from tracker.commands.json_documents import Broken
from tracker.commands.replay import saved_messages
from tracker.commands.replay.replayer import NOT_TRIED, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from tracker.commands.replay.replayer import ReplayResult
    from tracker.commands.replay.saved_messages import SavedMessage

PROGRESS_SECONDS: Final = 10.0
UNREMARKABLE: Final = frozenset({"applied", "duplicate"})
COLOURS: Final = {"applied": "green", "malformed": "red", "failed": "red", "unmatched": "yellow"}
MEANINGS: Final[dict[Outcome, str]] = {
    "applied": "changed the record of its email",
    "duplicate": "was applied before",
    "unmatched": "there is no record of its email",
    "ignored": "of a type that is not counted",
    "malformed": "cannot be read as an event",
    "failed": "could not be applied",
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a replay."""

    failed_to: Path | None
    dry_run: bool
    announce: bool
    as_json: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The number of events with each outcome; `suppressed` counts addresses, all events up to `up_to_line` are done."""

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


class Report:
    """The report of one replay; a context manager that closes the file of failed messages."""

    def __init__(self, options: Options) -> None:
        """Begin with no event."""
        self._options = options
        self._counts: Counter[str] = Counter()
        self._suppressed = 0
        self._up_to_line = 0
        self._failed: BinaryIO | None = None
        self._progress_at = time.monotonic()

    def __enter__(self) -> Self:
        """Open nothing: the file is created with the first message that fails."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._failed:
            self._failed.close()

    def add(self, batch: Sequence[SavedMessage | Broken], results: Sequence[ReplayResult | None]) -> None:
        """Report the results of a batch; messages with None were not started."""
        has_gap = False
        for message, result in zip(batch, results, strict=True):
            if result is None:
                has_gap = True
                continue
            self._counts[result.outcome] += 1
            self._suppressed += result.suppressed
            self._print(result)
            if result.outcome == "failed" and not isinstance(message, Broken):
                self._keep(message)
            if not has_gap:
                self._up_to_line = result.line
        if time.monotonic() - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = time.monotonic()
            command.say(f"{self._counts.total():,} events so far, up to line {self._up_to_line:,}")

    def end(self, *, unreadable: str, interrupted: int) -> None:
        """Print the summary and end with the exit status of the replay.

        Raises:
            Failed: the file is `unreadable`, or an event failed or was malformed.
            SystemExit: a signal `interrupted` the replay.
        """
        summary = self._summary()
        _print_summary(summary, self._options)
        if interrupted:
            command.say(
                f"Interrupted: all events up to line {summary.up_to_line} are done. To continue, replay the whole file:"
                " events that were applied are duplicates then."
            )
            sys.exit(interrupted)
        if unreadable:
            raise command.Failed(f"{unreadable}; all events before that place are done")
        if bad := summary.failed + summary.malformed:
            raise command.Failed(f"{bad} of {summary.events} events failed or were malformed")

    def _summary(self) -> Summary:
        return Summary(
            dry_run=self._options.dry_run,
            events=self._counts.total(),
            **{name: self._counts[name] for name in get_args(Outcome)},
            suppressed=self._suppressed,
            up_to_line=self._up_to_line,
        )

    def _print(self, result: ReplayResult) -> None:
        if self._options.as_json:
            command.print_json(result)
        elif self._options.dry_run or (result.outcome not in UNREMARKABLE and result.detail != NOT_TRIED):
            outcome = click.style(f"{result.outcome:9}", fg=COLOURS.get(result.outcome))
            about = f"{result.kind or '-':9}  {formatting.printable(result.email_id):36}"
            detail = formatting.printable(result.detail) if result.detail else ""
            click.echo(f"line {result.line:<6}  {outcome}  {about}  {detail}".rstrip())

    def _keep(self, message: SavedMessage) -> None:
        if not self._options.failed_to or self._options.dry_run:
            return
        if not self._failed:
            self._failed = self._options.failed_to.open("xb")
        self._failed.write(saved_messages.encode(message))
        self._failed.flush()


def _print_summary(summary: Summary, options: Options) -> None:
    if options.as_json:
        command.print_json(summary)
    else:
        rows = [(name, getattr(summary, name), meaning) for name, meaning in MEANINGS.items()]
        command.print_table(rows, ("OUTCOME", "EVENTS", "MEANING"))
    if summary.suppressed:
        added = "that would be added" if summary.dry_run else "added"
        command.say(f"Addresses {added} to the suppression list: {summary.suppressed}.")
    if summary.dry_run:
        command.say("This was a dry run: nothing was written.")
    if summary.failed and options.failed_to and not summary.dry_run:
        command.say(f"The messages that failed are in {options.failed_to}: replay that file later.")
    if not summary.events:
        command.say("The file contains no event.")

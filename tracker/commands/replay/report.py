# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reports a replay: each event, the counts and the exit status; keeps the messages that failed in a file."""

from __future__ import annotations

import sys
import time
from pathlib import Path  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Final

import click
import msgspec

from shared.commands import command, formatting, output
from tracker.commands.replay import saved_messages
from tracker.commands.replay.replayer import NOT_TRIED
from tracker.commands.replay.saved_messages import SavedMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker.commands.json_documents import Broken
    from tracker.commands.replay.replayer import Outcome, ReplayResult

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
    rebuild: bool
    as_json: bool


class Summary(msgspec.Struct, kw_only=True):
    """The number of events with each outcome; all events up to `up_to_line` are done.

    `suppressed` counts the addresses that were added to the suppression list, `rebuilt` the records that were made.
    """

    dry_run: bool
    events: int = 0
    applied: int = 0
    duplicate: int = 0
    unmatched: int = 0
    ignored: int = 0
    malformed: int = 0
    failed: int = 0
    suppressed: int = 0
    rebuilt: int = 0
    up_to_line: int = 0


class Report:
    """The report of one replay."""

    def __init__(self, options: Options) -> None:
        """Begin with no event."""
        self._options = options
        self._summary = Summary(dry_run=options.dry_run)
        self._progress_at = time.monotonic()

    def add(self, batch: Sequence[SavedMessage | Broken], results: Sequence[ReplayResult | None]) -> None:
        """Report the results of a batch; messages with None were not started."""
        summary, has_gap = self._summary, False
        for message, result in zip(batch, results, strict=True):
            if result is None:
                has_gap = True
                continue
            summary.events += 1
            summary.suppressed += result.suppressed
            summary.rebuilt += result.rebuilt
            setattr(summary, result.outcome, getattr(summary, result.outcome) + 1)
            with output.without_reader():  # such as head: the events are applied, and the exit status is right
                self._print(result)
            if result.outcome == "failed" and isinstance(message, SavedMessage):
                self._keep(message)
            if not has_gap:
                summary.up_to_line = result.line
        if time.monotonic() - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = time.monotonic()
            command.say(f"{summary.events:,} events so far, up to line {summary.up_to_line:,}")

    def end(self, *, unreadable: str, interrupted: int) -> None:
        """Print the summary and end with the exit status of the replay.

        Raises:
            Failed: the file is `unreadable`, or an event failed or was malformed.
            SystemExit: a signal `interrupted` the replay.
        """
        summary = self._summary
        with output.without_reader():
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

    def _print(self, result: ReplayResult) -> None:
        if self._options.as_json:
            command.print_json(result)
        elif self._options.dry_run or (result.outcome not in UNREMARKABLE and result.detail != NOT_TRIED):
            outcome = click.style(f"{result.outcome:9}", fg=COLOURS.get(result.outcome))
            about = f"{result.kind or '-':9}  {formatting.printable(result.email_id):36}"
            detail = formatting.printable(result.detail) if result.detail else ""
            head = f"line {result.line:<6}  {outcome}  {about}"
            click.echo(formatting.in_lines(head, [detail], output.columns()))

    def _keep(self, message: SavedMessage) -> None:
        if self._options.failed_to and not self._options.dry_run:
            with self._options.failed_to.open("ab") as file:
                file.write(saved_messages.encode(message))


def _print_summary(summary: Summary, options: Options) -> None:
    if options.as_json:
        command.print_json(summary)
    else:
        rows = [(name, getattr(summary, name), meaning) for name, meaning in MEANINGS.items()]
        command.print_table(rows, ("OUTCOME", "EVENTS", "MEANING"))
    if options.rebuild:
        made = "that would be made" if summary.dry_run else "made"
        command.say(f"Records {made} from an event: {summary.rebuilt}.")
    if summary.suppressed:
        added = "that would be added" if summary.dry_run else "added"
        command.say(f"Addresses {added} to the suppression list: {summary.suppressed}.")
    if summary.dry_run:
        command.say("This was a dry run: nothing was written.")
    if summary.failed and options.failed_to and not summary.dry_run:
        command.say(f"The messages that failed are in {options.failed_to}: replay that file later.")
    if not summary.events:
        command.say("The file contains no event.")

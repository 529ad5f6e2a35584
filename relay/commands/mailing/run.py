# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One run of a mailing: the file is read, what is done already is left out, the rest is sent, and all of it counted."""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from contextlib import nullcontext
from pathlib import Path  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from relay.commands.mailing import mailer
from relay.commands.mailing import rows as mailing
from relay.commands.mailing.mailer import Mailer
from relay.commands.mailing.results import ResultError, ResultFile
from shared.commands import command
from shared.errors import ServiceUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from relay.commands.mailing.results import Outcome
    from relay.commands.mailing.rows import Mailing, Row

NAME: Final = "lfx-email-relay send"
MOST_PROBLEMS: Final = 20
REFUSED: Final = frozenset({"refused"})
IN_DOUBT: Final = frozenset({"failed", "unknown", "sending"})
UNSETTLED: Final = frozenset({"sending", "unsent"})
RETRY_UNKNOWN: Final = "With --retry-unknown they are sent again, some of them perhaps a second time."
RETRY_REFUSED: Final = "With --retry-refused they are asked for again."


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is told besides its file and template."""

    result: Path | None
    concurrency: int
    retry_refused: bool
    retry_unknown: bool
    timeout: float
    as_json: bool


class Ending(msgspec.Struct, frozen=True):
    """Why a run ended early: a signal's exit status, or a service that is not there. Neither: it did not."""

    exit_status: int = 0
    why: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of all rows, over all runs; `unknown` had no answer, `unsent` were not taken yet."""

    result: str
    group_id: str
    rows: int
    sent: int
    filtered: int
    refused: int
    failed: int
    unknown: int
    unsent: int


def run(csv_file: Path, given: Mapping[str, str], tags: Mapping[str, str], options: Options) -> None:
    """Send what is not sent yet; end with a status of `command`."""
    result = options.result or csv_file.with_name(f"{csv_file.name}.result.csv")
    try:
        rows = _read(csv_file, given, tags).rows
        with ResultFile(result) as results:
            _check_same(rows, results)
            group_id = given.get("group_id") or results.group_id or str(uuid.uuid4())
            todo = [mailer.with_group(row, group_id) for row in rows if _is_due(row, results, options)]
            ended = _send(todo, results, options)
            _conclude(_summary(rows, results, group_id, result), ended, as_json=options.as_json)
    except ResultError as error:
        raise command.WrongUsage(str(error)) from error


def _read(csv_file: Path, given: Mapping[str, str], tags: Mapping[str, str]) -> Mailing:
    try:
        with csv_file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            read = mailing.read(lines, given, tags)
    except OSError as error:
        raise command.WrongUsage(f"{csv_file}: {error.strerror}") from error
    except mailing.Unusable as error:
        shown = error.problems[:MOST_PROBLEMS]
        more = len(error.problems) - len(shown)
        last = [f"and {more} more"] if more else []
        raise command.WrongUsage("\n  ".join([f"{csv_file}: nothing was sent", *shown, *last])) from error
    if read.unused:
        command.say(f"Columns that are not used: {', '.join(read.unused)}")
    return read


def _check_same(rows: Sequence[Row], results: ResultFile) -> None:
    """Refuse a result file of other rows.

    Raises:
        ResultError: a row has another recipient there, or is not there any more.
    """
    recipients = {row.number: row.to for row in rows}
    for number, line in results.lines.items():
        if recipients.get(number) != line.to:
            now = recipients.get(number, "no row")
            raise ResultError(f"the result file is that of other rows: row {number} was for {line.to}, and is {now}")


def _is_due(row: Row, results: ResultFile, options: Options) -> bool:
    line = results.lines.get(row.number)
    if line is None or line.outcome.status == "unsent":
        return True
    asked_again = (REFUSED if options.retry_refused else frozenset()) | (
        IN_DOUBT if options.retry_unknown else frozenset()
    )
    return line.outcome.status in asked_again


def _send(todo: Sequence[Row], results: ResultFile, options: Options) -> Ending:
    """Send; whatever ends it early, what is known is in the result file."""
    stopped: list[str] = []

    async def work(progress: Any) -> None:
        def settle(row: Row, outcome: Outcome) -> None:
            results.write(row, outcome)
            if progress and outcome.status not in UNSETTLED:
                progress.update(1)

        async with command.connected(NAME) as caller:
            sending = Mailer(caller, settle, command.say, concurrency=options.concurrency, timeout=options.timeout)
            await sending.send(todo)
            stopped.append(sending.stopped)

    if not todo:
        return Ending()
    try:
        with _progress(len(todo)) as progress:
            command.run(work(progress))
    except SystemExit as signalled:
        return Ending(exit_status=int(str(signalled.code)))
    except ServiceUnreachable as error:
        return Ending(why=str(error))
    return Ending(why=stopped[0])


def _progress(length: int) -> AbstractContextManager[Any]:
    if not sys.stderr.isatty():
        return nullcontext()
    return click.progressbar(length=length, label="Sending", file=sys.stderr)


def _summary(rows: Sequence[Row], results: ResultFile, group_id: str, path: Path) -> Summary:
    lines = [results.lines.get(row.number) for row in rows]
    counts = Counter(line.outcome.status if line else "unsent" for line in lines)
    return Summary(
        result=str(path),
        group_id=group_id,
        rows=len(rows),
        sent=counts["sent"],
        filtered=counts["filtered"],
        refused=counts["refused"],
        failed=counts["failed"],
        unknown=counts["unknown"] + counts["sending"],
        unsent=counts["unsent"],
    )


def _conclude(summary: Summary, ending: Ending, *, as_json: bool) -> None:
    """Print what has become of the rows; end with the status that fits."""
    if as_json:
        command.print_json(summary)
    else:
        command.print_table([(name, str(value)) for name, value in msgspec.structs.asdict(summary).items()])
    if summary.unknown or summary.failed:
        command.say(f"Nobody knows of {summary.unknown + summary.failed} whether they were sent. {RETRY_UNKNOWN}")
    if summary.refused:
        command.say(f"{summary.refused} were refused; the result file says why. {RETRY_REFUSED}")
    if ending.exit_status:
        command.say("Interrupted. The same command goes on with the rest.")
        sys.exit(ending.exit_status)
    if ending.why or summary.unsent or summary.unknown:
        why = ending.why or "some rows have no answer"
        raise command.Unreachable(f"{why}. The same command goes on with the rest.")
    if summary.sent < summary.rows:
        raise command.Failed(f"{summary.rows - summary.sent} of {summary.rows} were not sent")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One run of a mailing: read the CSV file, send the rows that remain, print the counts, set the exit status."""

from __future__ import annotations

import io
import sys
import uuid
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from relay.commands import text_file
from relay.commands.mailing import preview, rows
from relay.commands.mailing.mailer import Mailer
from relay.commands.mailing.progress import Bar
from relay.commands.mailing.results import ResultError, ResultFile
from relay.commands.mailing.storage import StorageError
from shared.commands import command, output
from shared.errors import LoginRefused, ServiceUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager

    from relay.commands.mailing.results import ResultLine, RowOutcome, RowStatus
    from relay.commands.mailing.rows import Mailing, Repeated, Row, StoredRow

NAME: Final = "lfx-email-relay send"
RETRIED_IF_REFUSED: Final[frozenset[RowStatus]] = frozenset({"refused"})
RETRIED_IF_UNKNOWN: Final[frozenset[RowStatus]] = frozenset({"failed", "unknown", "sending"})
DELIVERED: Final[frozenset[RowStatus]] = frozenset({"sent", "filtered"})
IN_PROGRESS: Final[frozenset[RowStatus]] = frozenset({"sending", "unsent"})
STDIN: Final = Path("-")
OTHER_RESULT: Final = "Use --result with another file for another mailing."
RUN_AGAIN: Final = "Run the same command again to send the remaining rows."


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a mailing, besides those that are fields of a request."""

    result: Path | None
    concurrency: int
    retry_refused: bool
    retry_unknown: bool
    timeout: float
    delimiter: str
    dry_run: bool
    as_json: bool


class EarlyEnd(msgspec.Struct, frozen=True):
    """Why a run ended early: a signal gives `exit_status`, a service that failed gives `why`.

    `denied` means that a permission is missing, the login is refused, or the result file cannot be written.
    """

    exit_status: int = 0
    why: str = ""
    denied: bool = False


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The number of rows with each status, over all runs. Rows that are still `sending` count as `unknown`.

    `sent_now` are those that this run has sent, `sent_before` those of earlier runs.
    """

    result: str
    group_id: str
    rows: int
    sent: int
    sent_before: int
    sent_now: int
    filtered: int
    refused: int
    failed: int
    unknown: int
    unsent: int


def send_rows(csv_file: Path, fields: Mapping[str, str], tags: Mapping[str, str], options: Options) -> None:
    """Send the rows that remain, and print the summary. `fields` are those of a request that all rows share.

    Raises:
        WrongUsage: the file, the template or the result file is not valid; nothing was sent.
        Failed: some rows were not sent, and another run would not send them either.
        Unreachable: another run would send more.
    """
    path = options.result or csv_file.with_name(f"{csv_file.name}.result.csv")
    try:
        mailing = _read(csv_file, fields, tags, options.delimiter)
        if options.dry_run:
            _preview(mailing, csv_file, path, options)
            return
        with ResultFile(path) as results:
            _check_same_mailing(mailing, results, options)
            before = _count(mailing, results)
            due = _due(options)
            group_id = fields.get("group_id") or _group_of(mailing, results) or str(uuid.uuid4())
            remaining = (row.in_group(group_id) for row in _remaining(mailing, results, due))
            end = _send(remaining, sum(before[status] for status in due), results, options)
            counts = _count(mailing, results)
            _conclude(_summary(counts, before["sent"], group_id, path), end, as_json=options.as_json)
    except ResultError as error:
        raise command.WrongUsage(str(error)) from error
    except StorageError as error:
        raise command.Failed(str(error)) from error


def _read(csv_file: Path, fields: Mapping[str, str], tags: Mapping[str, str], delimiter: str) -> Mailing:
    try:
        with _opened(csv_file) as file:
            mailing = rows.read(text_file.lines(file), fields, tags, delimiter)
    except OSError as error:
        raise command.WrongUsage(f"{csv_file}: {error.strerror}") from error
    except text_file.Undecodable as error:
        raise command.WrongUsage(f"{_name(csv_file)}: nothing was sent\n  {error}") from error
    except rows.InvalidMailing as error:
        more = error.count - len(error.problems)
        last = [f"and {more} more"] if more else []
        raise command.WrongUsage(
            "\n  ".join([f"{_name(csv_file)}: nothing was sent", *error.problems, *last])
        ) from error
    if mailing.unused:
        command.say(f"Columns that are not used: {', '.join(mailing.unused)}")
    _warn_of_repeats(mailing.repeated)
    return mailing


def _opened(csv_file: Path) -> io.BufferedReader:
    if csv_file != STDIN:
        return csv_file.open("rb")
    if sys.stdin is None:
        raise command.WrongUsage("standard input is closed")
    stream: Any = sys.stdin.buffer
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)


def _name(csv_file: Path) -> str:
    return "standard input" if csv_file == STDIN else str(csv_file)


def _warn_of_repeats(repeated: Repeated) -> None:
    if not repeated.count:
        return
    more = repeated.count - len(repeated.shown)
    lines = [*repeated.shown, *([f"and {more:,} more"] if more else [])]
    command.say("\n  ".join([f"Warning: rows with the recipient of an earlier row: {repeated.count:,}", *lines]))


def _preview(mailing: Mailing, csv_file: Path, path: Path, options: Options) -> None:
    """Show the first email that a run would send, and how many it would send."""
    remaining, first = len(mailing.stored), 1
    if path.is_file():
        with ResultFile(path, read_only=True) as results:
            _check_same_mailing(mailing, results, options)
            due = _due(options)
            counts = _count(mailing, results)
            remaining = sum(counts[status] for status in due)
            numbers = (number for number, _ in mailing.stored.pairs() if _status(results.lines.get(number)) in due)
            first = next(numbers, 0)
    row = mailing.row(first, mailing.stored[first]) if first else None
    if options.as_json:
        command.print_json({"rows": len(mailing.stored), "to_send": remaining, "first": row.request if row else None})
        return
    if row:
        click.echo(preview.text(row.request))
        command.say(
            f"This is the email of line {row.line} of {_name(csv_file)}, the first of {remaining:,} to be sent."
        )
    command.say(f"Dry run: nothing was sent. Rows: {len(mailing.stored):,}, to be sent: {remaining:,}.")


def _check_same_mailing(mailing: Mailing, results: ResultFile, options: Options) -> None:
    """Check that the result file is of this mailing.

    A row that was not sent, and is sent now, may have other content than before.

    Raises:
        ResultError: a row has another recipient or content now, or is missing.
    """
    if results.lines and not results.has_digests:
        command.say(f"{results.path} was written by an older version and may be of another mailing. {OTHER_RESULT}")
    for number, line in results.lines.pairs():
        if difference := _difference(mailing.stored.get(number), line, options):
            raise ResultError(
                f"{results.path}: nothing was sent: the result file belongs to {difference}. {OTHER_RESULT}"
            )


def _difference(row: StoredRow | None, line: ResultLine, options: Options) -> str:
    if row is None:
        return f"other rows: there is no row any more for {line.to}"
    if row.to != line.to:
        return f"other rows: line {row.line} was {line.to}, and is now {row.to}"
    status = line.outcome.status
    if line.is_of(row.digest) or _may_differ(status, options):
        return ""
    return f"another mailing: line {row.line}, {row.to}, is {status} with another subject, body or option"


def _may_differ(status: RowStatus, options: Options) -> bool:
    return status == "unsent" or (status in RETRIED_IF_REFUSED and options.retry_refused)


def _due(options: Options) -> set[RowStatus]:
    """Return the statuses of the rows that this run sends."""
    due: set[RowStatus] = {"unsent"}
    if options.retry_refused:
        due |= RETRIED_IF_REFUSED
    if options.retry_unknown:
        due |= RETRIED_IF_UNKNOWN
    return due


def _remaining(mailing: Mailing, results: ResultFile, due: AbstractSet[RowStatus]) -> Iterator[Row]:
    """Return the rows to send, each when the one before is under way."""
    for number, stored in mailing.stored.pairs():
        if _status(results.lines.get(number)) in due:
            yield mailing.row(number, stored)


def _group_of(mailing: Mailing, results: ResultFile) -> str:
    """Return the group that an earlier run chose; empty if there is none."""
    groups = ((number, line.outcome.group_id) for number, line in results.lines.pairs() if line.outcome.group_id)
    return next((group_id for number, group_id in groups if not mailing.stored[number].has_group), "")


def _send(remaining: Iterable[Row], count: int, results: ResultFile, options: Options) -> EarlyEnd:
    async def work(progress: Bar | None) -> EarlyEnd:
        def record(row: Row, outcome: RowOutcome) -> None:
            results.write(row, outcome)
            if progress and outcome.status not in IN_PROGRESS:
                progress.add(failed=outcome.status not in DELIVERED)

        async with command.connected(NAME) as caller:
            mailer = Mailer(caller, record, concurrency=options.concurrency, timeout=options.timeout)
            await mailer.send(remaining)
            return EarlyEnd(why=mailer.stopped, denied=mailer.denied)

    if not count:
        return EarlyEnd()
    try:
        with _progress(count) as progress:
            return command.run(work(progress))
    except SystemExit as signalled:
        return EarlyEnd(exit_status=int(str(signalled.code)))
    except ServiceUnreachable as error:
        return EarlyEnd(why=str(error), denied=isinstance(error, LoginRefused))
    except OSError as error:  # such as a full disk; the rows under way have no outcome in the file
        return EarlyEnd(why=f"{results.path}: {error.strerror}", denied=True)


def _progress(total: int) -> AbstractContextManager[Bar | None]:
    if not (sys.stderr and sys.stderr.isatty()):
        return nullcontext()
    return Bar(total, sys.stderr)


def _count(mailing: Mailing, results: ResultFile) -> Counter[RowStatus]:
    """Count the rows by their status; each line of the file is of a row."""
    counts = Counter(line.outcome.status for _, line in results.lines.pairs())
    counts["unsent"] += len(mailing.stored) - counts.total()
    return counts


def _status(line: ResultLine | None) -> RowStatus:
    return line.outcome.status if line else "unsent"


def _summary(counts: Counter[RowStatus], sent_before: int, group_id: str, path: Path) -> Summary:
    return Summary(
        result=str(path),
        group_id=group_id,
        rows=counts.total(),
        sent=counts["sent"],
        sent_before=sent_before,
        sent_now=counts["sent"] - sent_before,
        filtered=counts["filtered"],
        refused=counts["refused"],
        failed=counts["failed"],
        unknown=counts["unknown"] + counts["sending"],
        unsent=counts["unsent"],
    )


def _print(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        command.print_json(summary)
    else:
        fields = msgspec.structs.asdict(summary).items()
        command.print_table([(name, str(value)) for name, value in fields])


def _conclude(summary: Summary, end: EarlyEnd, *, as_json: bool) -> None:
    """Print the summary and what the user may do next; exit with the status for it."""
    with output.without_reader():
        _print(summary, as_json=as_json)
    if summary.sent_before and not summary.sent_now:
        command.say(f"Nothing was sent now: {summary.sent_before} were sent before.")
    if uncertain := summary.unknown + summary.failed:
        retry = "--retry-unknown sends them again: some recipients may get the email twice"
        command.say(f"{uncertain} have an unknown outcome. {retry}.")
    if summary.refused:
        command.say(
            f"{summary.refused} were refused; the result file has the reasons. --retry-refused sends them again."
        )
    if end.exit_status:
        command.say(f"Interrupted. {RUN_AGAIN}")
        sys.exit(end.exit_status)
    if end.denied:
        raise command.Failed(f"{end.why}. {RUN_AGAIN}")
    if end.why or summary.unsent:
        raise command.Unreachable(f"{end.why or 'some rows were not sent'}. {RUN_AGAIN}")
    if summary.unknown:
        raise command.Unreachable("some rows have no answer")
    if summary.sent < summary.rows:
        raise command.Failed(f"{summary.rows - summary.sent} of {summary.rows} were not sent")

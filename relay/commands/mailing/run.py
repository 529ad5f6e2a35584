# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One run of a mailing: read the CSV file, send the rows that remain, print the counts, set the exit status."""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from contextlib import nullcontext
from pathlib import Path  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from relay.commands import text_file
from relay.commands.mailing import rows
from relay.commands.mailing.mailer import Mailer
from relay.commands.mailing.results import ResultError, ResultFile
from shared.commands import command
from shared.errors import ServiceUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from relay.commands.mailing.results import RowOutcome, RowStatus
    from relay.commands.mailing.rows import Mailing, Row

NAME: Final = "lfx-email-relay send"
MAX_PROBLEMS: Final = 20
RETRIED_IF_REFUSED: Final[frozenset[RowStatus]] = frozenset({"refused"})
RETRIED_IF_UNKNOWN: Final[frozenset[RowStatus]] = frozenset({"failed", "unknown", "sending"})
IN_PROGRESS: Final[frozenset[RowStatus]] = frozenset({"sending", "unsent"})
RUN_AGAIN: Final = "Run the same command again to send the remaining rows."


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a mailing, besides those that are fields of a request."""

    result: Path | None
    concurrency: int
    retry_refused: bool
    retry_unknown: bool
    timeout: float
    as_json: bool


class EarlyEnd(msgspec.Struct, frozen=True):
    """Why a run ended early: a signal gives `exit_status`, a service that failed gives `why`."""

    exit_status: int = 0
    why: str = ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The number of rows with each status, over all runs. Rows that are still `sending` count as `unknown`."""

    result: str
    group_id: str
    rows: int
    sent: int
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
        mailing = _read(csv_file, fields, tags)
        with ResultFile(path) as results:
            _check_same_rows(mailing.rows, results)
            group_id = fields.get("group_id") or results.group_id or str(uuid.uuid4())
            remaining = [row.in_group(group_id) for row in mailing.rows if _is_due(row, results, options)]
            end = _send(remaining, results, options)
            _conclude(_summary(mailing.rows, results, group_id, path), end, as_json=options.as_json)
    except ResultError as error:
        raise command.WrongUsage(str(error)) from error


def _read(csv_file: Path, fields: Mapping[str, str], tags: Mapping[str, str]) -> Mailing:
    try:
        text = text_file.decode(csv_file.read_bytes())
        mailing = rows.read(text_file.lines(text), fields, tags)
    except OSError as error:
        raise command.WrongUsage(f"{csv_file}: {error.strerror}") from error
    except text_file.Undecodable as error:
        raise command.WrongUsage(f"{csv_file}: nothing was sent\n  {error}") from error
    except rows.InvalidMailing as error:
        shown = error.problems[:MAX_PROBLEMS]
        more = len(error.problems) - len(shown)
        last = [f"and {more} more"] if more else []
        raise command.WrongUsage("\n  ".join([f"{csv_file}: nothing was sent", *shown, *last])) from error
    if mailing.unused:
        command.say(f"Columns that are not used: {', '.join(mailing.unused)}")
    return mailing


def _check_same_rows(mailing: Sequence[Row], results: ResultFile) -> None:
    """Check that the result file has the rows of this CSV file.

    Raises:
        ResultError: a row has another recipient now, or is missing.
    """
    recipients = {row.number: row.to for row in mailing}
    for number, line in results.lines.items():
        if recipients.get(number) != line.to:
            now = recipients.get(number, "missing in the CSV file")
            raise ResultError(f"the result file belongs to other rows: row {number} was {line.to}, and is now {now}")


def _is_due(row: Row, results: ResultFile, options: Options) -> bool:
    line = results.lines.get(row.number)
    if line is None or line.outcome.status == "unsent":
        return True
    if line.outcome.status in RETRIED_IF_REFUSED:
        return options.retry_refused
    return options.retry_unknown and line.outcome.status in RETRIED_IF_UNKNOWN


def _send(remaining: Sequence[Row], results: ResultFile, options: Options) -> EarlyEnd:
    async def work(progress: Any) -> str:
        def record(row: Row, outcome: RowOutcome) -> None:
            results.write(row, outcome)
            if progress and outcome.status not in IN_PROGRESS:
                progress.update(1)

        async with command.connected(NAME) as caller:
            mailer = Mailer(caller, record, concurrency=options.concurrency, timeout=options.timeout)
            await mailer.send(remaining)
            return mailer.stopped

    if not remaining:
        return EarlyEnd()
    try:
        with _progress(len(remaining)) as progress:
            return EarlyEnd(why=command.run(work(progress)))
    except SystemExit as signalled:
        return EarlyEnd(exit_status=int(str(signalled.code)))
    except ServiceUnreachable as error:
        return EarlyEnd(why=str(error))


def _progress(length: int) -> AbstractContextManager[Any]:
    if not sys.stderr.isatty():
        return nullcontext()
    return click.progressbar(length=length, label="Sending", file=sys.stderr)


def _summary(mailing: Sequence[Row], results: ResultFile, group_id: str, path: Path) -> Summary:
    lines = [results.lines.get(row.number) for row in mailing]
    counts: Counter[RowStatus] = Counter(line.outcome.status if line else "unsent" for line in lines)
    return Summary(
        result=str(path),
        group_id=group_id,
        rows=len(mailing),
        sent=counts["sent"],
        filtered=counts["filtered"],
        refused=counts["refused"],
        failed=counts["failed"],
        unknown=counts["unknown"] + counts["sending"],
        unsent=counts["unsent"],
    )


def _conclude(summary: Summary, end: EarlyEnd, *, as_json: bool) -> None:
    """Print the summary and what the user may do next; exit with the status for it."""
    if as_json:
        command.print_json(summary)
    else:
        command.print_table([(name, str(value)) for name, value in msgspec.structs.asdict(summary).items()])
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
    if end.why or summary.unsent or summary.unknown:
        raise command.Unreachable(f"{end.why or 'some rows have no answer'}. {RUN_AGAIN}")
    if summary.sent < summary.rows:
        raise command.Failed(f"{summary.rows - summary.sent} of {summary.rows} were not sent")

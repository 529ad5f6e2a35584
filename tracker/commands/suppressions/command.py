# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The commands `lfx-email-tracker suppressions list|show|add|remove|import|export`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from shared.commands import command, group

REASONS: Final = click.Choice(("bounce", "complaint", "manual"), case_sensitive=False)
UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


class Since(click.ParamType):  # type: ignore[type-arg] # not generic in older ones
    """A time, or how long ago: 2026-01-31, 2026-01-31T12:00:00Z, 7d, 24h, 90m."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it."""
        if isinstance(value, datetime):
            return value
        try:
            if ago := re.fullmatch(r"(\d{1,9})([dhms])", value.strip()):
                return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * UNITS[ago[2]])
            at = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a time such as 2026-01-31T12:00:00Z nor a while such as 7d", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


filters = (
    click.Option(["--reason"], type=REASONS, help="Only those with this reason."),
    click.Option(["--since"], type=Since(), help="Only those suppressed since then: 2026-01-31, or 7d, 24h, 90m ago."),
)
replace = click.Option(["--replace"], is_flag=True, help="Replace an entry that is there; else it is kept.")


@click.group(cls=group.Group)
def suppressions() -> None:
    """Look after the suppression list: who gets no mail.

    The tracker fills it with SUPPRESSION_ENABLED=true, and the relay heeds it with the same variable. These commands
    work on the list whether or not it is set.
    """


@suppressions.command("list", cls=command.Command, params=[*filters])
@command.json_option
def list_(reason: str | None, since: datetime | None, *, as_json: bool) -> None:
    """List the addresses, in the order in which they came.

    With --json one document a line, with all fields; "suppressions import" reads it again.

    \b
    Examples:
      lfx-email-tracker suppressions list
      lfx-email-tracker suppressions list --reason complaint --since 7d
      lfx-email-tracker suppressions list --json | jq -r .address
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from tracker.commands.suppressions import run as suppressions_run  # noqa: PLC0415 - so that --help and completion do not wait for it

    suppressions_run.list_entries(reason, since, as_json=as_json)


@suppressions.command(cls=command.Command)
@click.argument("address")
@command.json_option
def show(address: str, *, as_json: bool) -> None:
    """Show why ADDRESS gets no mail. Ends with 1 if it is not in the list.

    \b
    Examples:
      lfx-email-tracker suppressions show ada@example.com
      lfx-email-tracker suppressions show 'Ada <Ada@Example.com>' --json
    """  # noqa: D301
    from tracker.commands.suppressions import run as suppressions_run  # noqa: PLC0415

    suppressions_run.show(address, as_json=as_json)


@suppressions.command(cls=command.Command, params=[replace])
@click.argument("address")
@click.option("--reason", type=REASONS, default="manual", show_default=True, help="Why.")
@click.option("--detail", default="", metavar="TEXT", help="Why, in your words; at most 500 characters.")
@command.json_option
def add(address: str, reason: str, detail: str, *, replace: bool, as_json: bool) -> None:
    """Put ADDRESS into the list: it gets no mail from now on.

    \b
    Examples:
      lfx-email-tracker suppressions add ada@example.com --detail 'asked by mail on 2026-01-31'
      lfx-email-tracker suppressions add ada@example.com --reason complaint --replace
    """  # noqa: D301
    from tracker.commands.suppressions import run as suppressions_run  # noqa: PLC0415

    suppressions_run.add(address, reason.lower(), detail, replace=replace, as_json=as_json)


@suppressions.command(cls=command.Command)
@click.argument("address")
@command.json_option
def remove(address: str, *, as_json: bool) -> None:
    """Take ADDRESS out of the list: it gets mail again. Ends with 1 if it was not there.

    \b
    Example:
      lfx-email-tracker suppressions remove ada@example.com
    """  # noqa: D301
    from tracker.commands.suppressions import run as suppressions_run  # noqa: PLC0415

    suppressions_run.remove(address, as_json=as_json)


@suppressions.command("import", cls=command.Command, params=[replace])
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--reason", type=REASONS, default="manual", show_default=True, help="Of rows that have none.")
@command.json_option
def import_(file: str, reason: str, *, replace: bool, as_json: bool) -> None:
    """Put the addresses of FILE into the list; - is standard input.

    Takes what "suppressions export" and "suppressions list --json" write, the columns of the list of an SES account
    (EmailAddress,Reason,LastUpdateTime), the files of SES's bulk import (address,BOUNCE without a header, or JSON), and
    the answer of "aws sesv2 list-suppressed-destinations"; also packed with gzip.

    Rows that are wrong are told by their line, and all others taken; then it ends with 1. It can be repeated: what is
    there is kept.

    \b
    Examples:
      lfx-email-tracker suppressions import list.csv
      aws sesv2 list-suppressed-destinations | lfx-email-tracker suppressions import -
      echo ada@example.com | lfx-email-tracker suppressions import - --reason complaint
    """  # noqa: D301
    from tracker.commands.suppressions import importing as suppression_import  # noqa: PLC0415

    suppression_import.run(file, reason.lower(), replace=replace, as_json=as_json)


@suppressions.command(cls=command.Command, params=[*filters])
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document a line, with all fields, and no CSV.")
def export(file: str, reason: str | None, since: datetime | None, *, as_json: bool) -> None:
    """Write the list to FILE as CSV; - is standard output.

    The columns are those of the list of an SES account: EmailAddress,Reason,LastUpdateTime. A file is replaced only
    when the list was read to its end.

    \b
    Examples:
      lfx-email-tracker suppressions export list.csv
      lfx-email-tracker suppressions export - --reason bounce | grep @example.com
    """  # noqa: D301
    from tracker.commands.suppressions import run as suppressions_run  # noqa: PLC0415

    suppressions_run.export(Path(file), reason, since, as_json=as_json)

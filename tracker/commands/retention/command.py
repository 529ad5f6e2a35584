# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker retention`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from msgspec import UNSET, UnsetType

from shared.commands import command, formatting
from shared.nats.inbox import Inbox
from tracker.commands.retention.run import Retention

if TYPE_CHECKING:
    from tracker.commands.retention.run import Progress

NAME: Final = "lfx-email-tracker retention"
UNITS: Final = {"w": timedelta(weeks=1), "d": timedelta(days=1), "h": timedelta(hours=1)}
LEAST_AGE: Final = timedelta(days=1)
PROGRESS_SECONDS: Final = 5.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed, or would be; `before` is the latest time of a last activity that is too old."""

    dry_run: bool
    before: datetime
    emails: int
    groups: int
    unreadable: int
    bytes_before: dict[str, int]
    bytes_after: dict[str, int] | UnsetType = UNSET


class Age(click.ParamType):  # type: ignore[type-arg] # not generic in older versions of click
    """A duration in weeks, days or hours: 26w, 180d, 36h."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration."""
        if isinstance(value, timedelta):
            return value
        given = re.fullmatch(r"([0-9]{1,6})([wdh])", value.strip())
        if not given or not int(given[1]):
            self.fail(f"{value!r} is not an age such as 180d, 26w or 36h", param, ctx)
        age = int(given[1]) * UNITS[given[2]]
        if age >= datetime.now(UTC) - datetime(2, 1, 1, tzinfo=UTC):
            self.fail(f"{value!r} is before the first year", param, ctx)
        return age


@click.command(cls=command.Command)
@click.option(
    "--older-than",
    type=Age(),
    required=True,
    metavar="AGE",
    help="How long an email had no activity: 180d, 26w, 36h. Activity is the sending and each event.",
)
@click.option("--yes", is_flag=True, help="Remove the emails; else only show how many it would be.")
@click.option(
    "--allow-recent",
    is_flag=True,
    help="Allow an age under 1 day, though events of such emails are still to come and would not be counted.",
)
@command.json_option
def retention(older_than: timedelta, *, yes: bool, allow_recent: bool, as_json: bool) -> None:
    """Remove old emails; the counts of their groups stay.

    Without --yes it only shows how many emails it would remove. With --yes it removes them from the records and from
    the groups. Analytics of each group stay the same, also meanwhile. Status of a removed email is "not found".

    Relays and trackers may run meanwhile, and so may another run. A run that was interrupted, even by kill -9, is
    continued by the next one.

    \b
    Examples:
      lfx-email-tracker retention --older-than 180d
      lfx-email-tracker retention --older-than 180d --yes
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    if older_than < LEAST_AGE and not allow_recent:
        raise click.UsageError(
            "--older-than is less than 1 day: events of such emails are still to come, and would not be counted; use"
            " --allow-recent if that is intended"
        )
    before = datetime.now(UTC).replace(microsecond=0) - older_than
    command.give_way()
    summary = command.run(_retain(before, remove=yes))
    if as_json:
        command.print_json(summary)
    else:
        command.print_table(_rows(summary))
    if not yes:
        command.say("Nothing was removed. Use --yes to remove these emails.")
    if summary.unreadable:
        raise command.Failed(f"records, segments or seals that cannot be read, and stay: {summary.unreadable:,}")


async def _retain(before: datetime, *, remove: bool) -> Summary:
    async with command.connected(NAME) as caller, Inbox(caller.connection) as inbox:
        work = Retention(caller.connection, inbox, before, _Reporter(remove=remove))
        bytes_before = await work.bucket_bytes()
        await (work.remove() if remove else work.preview())
        return Summary(
            dry_run=not remove,
            before=before,
            emails=work.progress.emails,
            groups=work.groups,
            unreadable=work.progress.unreadable,
            bytes_before=bytes_before,
            bytes_after=await work.bucket_bytes() if remove else UNSET,
        )


class _Reporter:
    """Prints the progress every PROGRESS_SECONDS."""

    def __init__(self, *, remove: bool) -> None:
        self._verb = "removed" if remove else "due"
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            read = f"{progress.read:,} of {progress.total:,} keys of {progress.bucket}"
            command.say(f"{read}; emails {self._verb}: {progress.emails:,}")


def _rows(summary: Summary) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("last activity before", formatting.time(summary.before)),
        ("emails to remove" if summary.dry_run else "emails removed", f"{summary.emails:,}"),
        ("groups", f"{summary.groups:,}"),
    ]
    for name, size in summary.bytes_before.items():
        text = formatting.size(size)
        if summary.bytes_after:
            text += f", now {formatting.size(summary.bytes_after[name])}"
        rows.append((name, text))
    return rows

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The commands `lfx-email-tracker suppressions list|show|add|remove|import|export`."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from shared import contract, suppression_list
from shared.commands import command, formatting, group, output
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan
from shared.nats.inbox import Inbox
from shared.suppression_list import EntryCorrupt, SuppressionList
from tracker.commands.since import Since
from tracker.commands.suppressions import file as file_format
from tracker.commands.suppressions import importing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from shared.contract import Suppression

NAME: Final = "lfx-email-tracker suppressions"
ADDRESS_WIDTH: Final = 32
STDOUT: Final = Path("-")
REASONS: Final = click.Choice(contract.SUPPRESSION_REASONS, case_sensitive=False)

T = TypeVar("T")


class Added(msgspec.Struct, frozen=True):
    """The outcome of `add`, and the entry that is in the list now."""

    outcome: suppression_list.Addition
    entry: Suppression


class Removed(msgspec.Struct, frozen=True):
    """The outcome of `remove`."""

    address: str
    removed: bool


filters = (
    click.Option(["--reason"], type=REASONS, help="Only entries with this reason."),
    click.Option(["--since"], type=Since(), help="Only entries since this time: 2026-01-31, or 7d, 24h, 90m ago."),
)
replace_option = click.Option(["--replace"], is_flag=True, help="Replace an existing entry; else it is kept.")


@click.group(cls=group.Group)
def suppressions() -> None:
    """Manage the suppression list: addresses that get no mail.

    With SUPPRESSION_ENABLED=true the tracker adds to the list, and the relay refuses mail to its addresses. These
    commands work on the list whether or not the variable is set.
    """


@suppressions.command("list", cls=command.Command, params=[*filters])
@command.json_option
def list_(reason: str | None, since: datetime | None, *, as_json: bool) -> None:
    """List the addresses in the order in which they were added.

    With --json one document a line, with all fields; "suppressions import" reads it again.

    \b
    Examples:
      lfx-email-tracker suppressions list
      lfx-email-tracker suppressions list --reason complaint --since 7d
      lfx-email-tracker suppressions list --json | jq -r .address
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    count = 0

    def show_entry(entry: Suppression) -> None:
        nonlocal count
        if as_json:
            command.print_json(entry)
        else:
            if not count:
                click.echo(_columns("SUPPRESSED AT", "REASON", "ADDRESS", "DETAIL"))
            click.echo(_columns(formatting.time(entry.suppressed_at), entry.reason, entry.address, entry.detail))
        count += 1

    corrupt = command.run(_for_each(show_entry, reason, since))
    command.say(_counted(count))
    _fail_if_any(corrupt)


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
    normalised = _normalised(address)
    try:
        entry = command.run(_with_list(lambda listed: listed.find_latest(normalised)))
    except EntryCorrupt as error:
        raise command.Failed(
            f"the entry of {normalised} cannot be read, so the relay refuses its mail: {error}; replace the entry with"
            " suppressions add"
        ) from error
    if not entry:
        raise command.Failed(f"{normalised} is not suppressed")
    if as_json:
        command.print_json(entry)
    else:
        command.print_table(list(_fields(entry).items()))


@suppressions.command(cls=command.Command, params=[replace_option])
@click.argument("address")
@click.option("--reason", type=REASONS, default="manual", show_default=True, help="Why it is suppressed.")
@click.option("--detail", default="", metavar="TEXT", help="A note of at most 500 characters.")
@command.json_option
def add(address: str, reason: str, detail: str, *, replace: bool, as_json: bool) -> None:
    """Add ADDRESS to the list: it gets no mail from now on.

    \b
    Examples:
      lfx-email-tracker suppressions add ada@example.com --detail 'asked by mail on 2026-01-31'
      lfx-email-tracker suppressions add ada@example.com --reason complaint --replace
    """  # noqa: D301
    if len(detail) > suppression_list.MAX_DETAIL_CHARACTERS:
        limit = suppression_list.MAX_DETAIL_CHARACTERS
        raise click.UsageError(f"--detail has {len(detail)} characters; the limit is {limit}")
    entry = contract.Suppression(
        address=_normalised(address), reason=reason.lower(), detail=detail, suppressed_at=datetime.now(UTC)
    )
    added = Added(*command.run(_with_list(lambda listed: listed.add(entry, replace=replace))))
    if as_json:
        command.print_json(added)
        return
    command.print_table([("outcome", added.outcome), *_fields(added.entry).items()])
    if added.outcome == "kept":
        command.say("The address is in the list already, and its entry is unchanged. Use --replace to replace it.")


@suppressions.command(cls=command.Command)
@click.argument("address")
@command.json_option
def remove(address: str, *, as_json: bool) -> None:
    """Remove ADDRESS from the list: it gets mail again. Ends with 1 if it was not in the list.

    \b
    Example:
      lfx-email-tracker suppressions remove ada@example.com
    """  # noqa: D301
    normalised = _normalised(address)
    removed = command.run(_with_list(lambda listed: listed.remove(normalised)))
    if as_json:
        command.print_json(Removed(normalised, removed))
    if not removed:
        raise command.Failed(f"{normalised} was not suppressed")
    if not as_json:
        click.echo(f"{normalised} is not suppressed any more")


@suppressions.command("import", cls=command.Command, params=[replace_option])
@click.option("--dry-run", is_flag=True, help="Check the file, count what would be added, and write nothing.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--reason", type=REASONS, default="manual", show_default=True, help="The reason of rows without one.")
@command.json_option
def import_(file: str, reason: str, *, replace: bool, dry_run: bool, as_json: bool) -> None:
    """Add the addresses of FILE to the list; - is standard input.

    Reads the output of "suppressions export" and "suppressions list --json", the columns of the list of an SES account
    (EmailAddress,Reason,LastUpdateTime), the files of SES's bulk import (address,BOUNCE without a header, or JSON), and
    the answer of "aws sesv2 list-suppressed-destinations"; also compressed with gzip.

    Wrong rows are reported by their line and all others are added; then it ends with 1. An import can be repeated:
    existing entries are kept.

    \b
    Examples:
      lfx-email-tracker suppressions import list.csv --dry-run
      aws sesv2 list-suppressed-destinations | lfx-email-tracker suppressions import -
      echo ada@example.com | lfx-email-tracker suppressions import - --reason complaint
    """  # noqa: D301
    options = importing.Options(replace=replace, dry_run=dry_run, as_json=as_json)
    importing.run(file, reason.lower(), _opened(f"{NAME} import"), options)


@suppressions.command(cls=command.Command, params=[*filters])
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document a line, with all fields, and no CSV.")
def export(file: Path, reason: str | None, since: datetime | None, *, as_json: bool) -> None:
    """Write the list to FILE as CSV; - is standard output.

    The columns are those of the list of an SES account: EmailAddress,Reason,LastUpdateTime. A file is replaced only
    when the list was read to its end.

    \b
    Examples:
      lfx-email-tracker suppressions export list.csv
      lfx-email-tracker suppressions export - --reason bounce | grep @example.com
    """  # noqa: D301
    count = 0
    with _replacing(file) as write:
        if not as_json:
            write(file_format.header())

        def write_entry(entry: Suppression) -> None:
            nonlocal count
            count += 1
            write(msgspec.json.encode(entry).decode() + "\n" if as_json else file_format.line_of(entry))

        corrupt = command.run(_for_each(write_entry, reason, since))
    command.say(_counted(count) if file == STDOUT else f"{_counted(count)} in {file}")
    _fail_if_any(corrupt)


@asynccontextmanager
async def _opened(name: str) -> AsyncIterator[tuple[SuppressionList, BucketScan]]:
    """Connect to NATS as the command `name`; yield the list, and a scan over all of it.

    Raises:
        BucketMissing: the bucket does not exist.
    """
    async with command.connected(name) as caller, Inbox(caller.connection) as inbox:
        bucket = Bucket(inbox, caller.connection, contract.EMAIL_SUPPRESSIONS_BUCKET)
        await bucket.info()
        yield SuppressionList(bucket), BucketScan(caller.connection, inbox, bucket)


async def _with_list(work: Callable[[SuppressionList], Awaitable[T]]) -> T:
    async with _opened(NAME) as (listed, _):
        return await work(listed)


async def _for_each(act: Callable[[Suppression], None], reason: str | None, since: datetime | None) -> int:
    """Call `act` with each selected entry; return how many entries cannot be read."""
    corrupt = 0
    async with _opened(NAME) as (_, scan), scan:
        async for entry in suppression_list.entries(scan):
            if isinstance(entry, EntryCorrupt):
                command.say(str(entry))
                corrupt += 1
            elif (not reason or entry.reason == reason.lower()) and (not since or entry.suppressed_at >= since):
                act(entry)
    return corrupt


@contextmanager
def _replacing(path: Path) -> Iterator[Callable[[str], Any]]:
    """Yield a function that writes; a regular file is replaced at the end, and only if nothing failed."""
    if path == STDOUT:
        yield lambda text: click.echo(text.encode(), nl=False)  # as in a file: UTF-8 in any terminal
        return
    if path.exists() and not path.is_file():  # a device or a pipe, which cannot be replaced
        with path.open("w", encoding="utf-8", newline="") as device:
            yield device.write
        return
    try:
        file = tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, delete=False)  # noqa: SIM115 - closed below
    except OSError as error:
        raise command.Failed(f"{path}: {error.strerror}") from error
    try:
        with file:
            yield file.write
        Path(file.name).replace(path)
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise


def _normalised(address: str) -> str:
    try:
        return suppression_list.normalised(address)
    except ValueError:
        raise command.WrongUsage(f"not a valid email address: {address}") from None


def _fail_if_any(corrupt: int) -> None:
    if corrupt:
        raise command.Failed(f"entries that cannot be read: {corrupt}")


def _counted(count: int) -> str:
    return f"{count:,} address{'es' if count != 1 else ''}"


def _fields(entry: Suppression) -> dict[str, str]:
    return msgspec.structs.asdict(entry) | {"suppressed_at": file_format.iso(entry.suppressed_at)}


def _columns(at: str, reason: str, address: str, detail: str) -> str:
    line = f"{at:20}  {reason:9}  {formatting.printable(address):{ADDRESS_WIDTH}}  {formatting.printable(detail)}"
    return formatting.clipped(line, output.columns())

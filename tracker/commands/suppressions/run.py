# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the commands on the suppression list do and tell."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract, suppression_list
from shared.commands import command, formatting
from shared.suppression_list import EntryCorrupt
from tracker.commands.suppressions import file as suppression_file
from tracker.commands.suppressions.file import MAX_DETAIL_CHARACTERS, written
from tracker.commands.suppressions.opened import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shared.contract import Suppression

NAME: Final = "lfx-email-tracker suppressions"
ADDRESS_WIDTH: Final = 32
STDOUT: Final = Path("-")


class Added(msgspec.Struct, frozen=True):
    """What `add` did, and the entry that is there now."""

    outcome: suppression_list.Addition
    entry: Suppression


class Removed(msgspec.Struct, frozen=True):
    """Whether `remove` had anything to remove."""

    address: str
    removed: bool


def list_entries(reason: str | None, since: datetime | None, *, as_json: bool) -> None:
    """Print the entries as they are read."""
    count = 0

    def tell(entry: Suppression) -> None:
        nonlocal count
        if as_json:
            command.print_json(entry)
        else:
            if not count:
                click.echo(_columns("SUPPRESSED AT", "REASON", "ADDRESS", "DETAIL"))
            at = entry.suppressed_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
            click.echo(_columns(at, entry.reason, entry.address, entry.detail))
        count += 1

    corrupt = command.run(_each(reason, since, tell))
    command.say(_counted(count))
    _insist_on_none(corrupt)


def show(address: str, *, as_json: bool) -> None:
    """Print an entry."""
    wanted = _normalised(address)

    async def work() -> Suppression | None:
        async with opened(NAME) as (listed, _):
            return await listed.find_latest(wanted)

    try:
        entry = command.run(work())
    except EntryCorrupt as error:
        raise command.Failed(
            f"the entry of {wanted} cannot be read, and the relay refuses its mail: {error}"
        ) from error
    if not entry:
        raise command.Failed(f"{wanted} is not suppressed")
    if as_json:
        command.print_json(entry)
    else:
        command.print_table(list(_shown(entry).items()))


def add(address: str, reason: str, detail: str, *, replace: bool, as_json: bool) -> None:
    """Put an entry in, and say what is there."""
    if len(detail) > MAX_DETAIL_CHARACTERS:
        raise click.UsageError(f"--detail has {len(detail)} characters, and {MAX_DETAIL_CHARACTERS} is the most")
    entry = contract.Suppression(
        address=_normalised(address), reason=reason, detail=detail, suppressed_at=datetime.now(UTC)
    )

    async def work() -> Added:
        async with opened(NAME) as (listed, _):
            return Added(*await listed.add(entry, replace=replace))

    added = command.run(work())
    if as_json:
        command.print_json(added)
        return
    command.print_table([("outcome", added.outcome), *_shown(added.entry).items()])
    if added.outcome == "kept":
        command.say("It was in the list already, and stays as it was. With --replace it is replaced.")


def remove(address: str, *, as_json: bool) -> None:
    """Take an entry out."""
    wanted = _normalised(address)

    async def work() -> bool:
        async with opened(NAME) as (listed, _):
            return await listed.remove(wanted)

    removed = command.run(work())
    if as_json:
        command.print_json(Removed(wanted, removed))
    if not removed:
        raise command.Failed(f"{wanted} was not suppressed")
    if not as_json:
        click.echo(f"{wanted} is not suppressed any more")


def export(path: Path, reason: str | None, since: datetime | None, *, as_json: bool) -> None:
    """Write the entries to a file as they are read; the file appears when it is whole."""
    count = 0
    with _written(path) as write:
        if not as_json:
            write(suppression_file.header())

        def keep(entry: Suppression) -> None:
            nonlocal count
            count += 1
            write(msgspec.json.encode(entry).decode() + "\n" if as_json else suppression_file.line_of(entry))

        corrupt = command.run(_each(reason, since, keep))
    command.say(_counted(count) if path == STDOUT else f"{_counted(count)} in {path}")
    _insist_on_none(corrupt)


async def _each(reason: str | None, since: datetime | None, tell: Callable[[Suppression], None]) -> int:
    """Tell each entry that is asked for; return how many could not be read."""
    corrupt = 0
    async with opened(NAME) as (_, scan), scan:
        async for entry in suppression_list.entries(scan):
            if isinstance(entry, EntryCorrupt):
                command.say(str(entry))
                corrupt += 1
            elif (not reason or entry.reason == reason.lower()) and (not since or entry.suppressed_at >= since):
                tell(entry)
    return corrupt


@contextmanager
def _written(path: Path) -> Iterator[Callable[[str], Any]]:
    if path == STDOUT:
        yield lambda text: click.echo(text, nl=False)
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
        raise command.WrongUsage(f"not one mailbox: {address}") from None


def _insist_on_none(corrupt: int) -> None:
    if corrupt:
        raise command.Failed(f"entries that cannot be read: {corrupt}")


def _counted(count: int) -> str:
    return f"{count:,} address{'es' if count != 1 else ''}"


def _shown(entry: Suppression) -> dict[str, str]:
    return msgspec.structs.asdict(entry) | {"suppressed_at": written(entry.suppressed_at)}


def _columns(at: str, reason: str, address: str, detail: str) -> str:
    return f"{at:19}  {reason:9}  {formatting.printable(address):{ADDRESS_WIDTH}}  {formatting.printable(detail)}"

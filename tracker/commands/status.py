# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker status`: shows the record of an email, or those of a group or of a recipient.

It asks the running tracker, except for those of a recipient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract
from shared.commands import command, formatting, output
from shared.contract import EmailRecipientRecord, GetEmailStatusRequest
from shared.errors import RequestRefused
from tracker.commands import not_found, sent_to
from tracker.commands.recipient_search import Address
from tracker.commands.since import Since

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from shared.commands.caller import Caller

NAME: Final = "lfx-email-tracker status"
PAGE: Final = 500
HEAD: Final = ("SENT AT", "STATE", "OPENS", "CLICKS", "EMAIL ID", "TO")
LINE: Final = "{:20}  {}  {:>5}  {:>6}  {:36}  {}"
"""With constant widths, because a group of any size is printed while it is fetched."""
NARROW_LINE: Final = "{0:20}  {1}  {4:36}  {5}"
NARROW_COLUMNS: Final = 110
FAILURES: Final = ("bounce", "complaint", "reject", "failed")
STATES: Final = ("sent", "delayed", "delivered", *FAILURES)
COLOURS: Final = {"delivered": "green", "delayed": "yellow", **dict.fromkeys(FAILURES, "red")}


@click.command(cls=command.Command)
@click.argument("email_id", required=False)
@click.option("--group-id", metavar="ID", help="Show all emails of this group, in the order in which they were sent.")
@click.option(
    "--to", "address", type=Address(), metavar="ADDRESS", help="Show all emails to this address. Reads all records."
)
@click.option(
    "--since", type=Since(), help="With --to, only emails sent since this time: 2026-01-31T12:00:00Z, or 7d, 12h ago."
)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only emails in this state; failed is any failure. May be repeated.",
)
@command.json_option
def status(  # noqa: PLR0913 - click passes each option
    email_id: str | None,
    group_id: str | None,
    address: str | None,
    since: datetime | None,
    states: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Show an email, the emails of a group, or those to an address.

    Asks the running tracker over NATS; --to reads the bucket of the records instead. A group of any size is fetched in
    pages; with --json each email is one line. Ends with 1 if there is no such email or group.

    \b
    Examples:
      lfx-email-tracker status e57f26e7-4995-4b9e-accc-4b4e135eb122
      lfx-email-tracker status --group-id efba8440-8256-4d52-bab3-55d7072201f4
      lfx-email-tracker status --group-id speakers --state failed
      lfx-email-tracker status --group-id speakers --json | jq -r 'select(.failed) | .to'
      lfx-email-tracker status --to ada@example.com --since 7d
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    if (bool(email_id), bool(group_id), bool(address)).count(True) != 1:
        raise click.UsageError("Give one of EMAIL_ID, --group-id and --to.")
    if since and not address:
        raise click.UsageError("--since needs --to.")
    if states and email_id:
        raise click.UsageError("--state needs --group-id or --to.")
    show = _Lines(states, as_json=as_json)
    if address:
        _print_sent_to(address, since, show)
    elif email_id:
        _print_record(command.run(_ask(email_id)), as_json=as_json)
    elif group_id and (missing := command.run(_print_group(group_id, show))):
        command.say(
            f"Emails of the group that retention has removed, or whose record is missing or cannot be read: {missing:,}"
        )


def _print_sent_to(address: str, since: datetime | None, show: _Lines) -> None:
    command.give_way()
    count = command.run(sent_to.show_all(NAME, address, since, show))
    if not count:
        raise command.Failed(f"no email to {address} is recorded" + (" since then" if since else ""))


async def _ask(email_id: str) -> EmailRecipientRecord:
    async with command.connected(NAME) as caller:
        request = GetEmailStatusRequest(email_id=email_id)
        with not_found.email_named(email_id):
            return await caller.ask(contract.GET_EMAIL_STATUS_SUBJECT, request, EmailRecipientRecord)


async def _print_group(group_id: str, show: _Lines) -> int:
    """Print the records of a group page by page; return how many emails have no record."""
    missing = 0
    async with command.connected(NAME) as caller:
        async for records, size in _pages(caller, group_id):
            show.head()
            for record in records:
                show(record)
            missing += size - len(records)
    return missing


async def _pages(caller: Caller, group_id: str) -> AsyncIterator[tuple[list[EmailRecipientRecord], int]]:
    """Yield the records of a group page by page, each page with the number of emails that it covers.

    A page leaves out missing records, so only the count in the analytics shows where the group ends.
    """
    with not_found.group_named(group_id):
        counted = await caller.ask(
            contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT,
            contract.GetEmailEngagementAnalyticsRequest(group_id=group_id),
            contract.GetEmailEngagementAnalyticsResponse,
        )
    offset, limit = 0, PAGE
    while offset < counted.total_sent:
        request = GetEmailStatusRequest(group_id=group_id, offset=offset, limit=limit)
        asked_for = min(limit, counted.total_sent - offset)
        try:
            records = await caller.ask(contract.GET_EMAIL_STATUS_SUBJECT, request, list[EmailRecipientRecord])
        except RequestRefused as refused:
            if str(refused) != contract.RESPONSE_TOO_LARGE or limit == 1:
                raise
            limit //= 2
            continue
        yield records[:asked_for], asked_for  # without emails that were sent since the count
        offset += asked_for


class _Lines:
    """Prints records in these states, one a line: JSON, or columns below a head."""

    def __init__(self, states: Sequence[str], *, as_json: bool) -> None:
        self._states = states
        self._as_json = as_json
        self._has_head = as_json

    def head(self) -> None:
        """Print the head, once."""
        if not self._has_head:
            click.echo(_cells(HEAD[0], f"{HEAD[1]:9}", *HEAD[2:]))
            self._has_head = True

    def __call__(self, record: EmailRecipientRecord) -> None:
        """Print a record."""
        self.head()
        if _is_in(record, self._states):
            command.print_json(record) if self._as_json else click.echo(_line(record))


def _print_record(record: EmailRecipientRecord, *, as_json: bool) -> None:
    if as_json:
        command.print_json(record)
        return
    fields: dict[str, Any] = msgspec.to_builtins(record)
    command.print_table([row for name, value in fields.items() for row in _rows(name, value)])


def _rows(name: str, value: Any) -> list[tuple[str, object]]:
    """Return the lines of a field: a list has one line for each element, an object one for each of its fields."""
    match value:
        case dict():
            return [(f"{name}.{inner}", field) for inner, field in value.items()]
        case list() | tuple():
            return [(name, _element(element)) for element in value]
        case bool():
            return [(name, value)]
        case _:
            return [(name, str(value))]


def _element(value: dict[str, Any] | str) -> str:
    """Format an open or a click without the id of its event; the Go service stores the id of a click alone."""
    if isinstance(value, str):
        return value
    return "  ".join(str(field) for name, field in value.items() if name != "event_id")


def _line(record: EmailRecipientRecord) -> str:
    state = _state(record)
    shown = click.style(f"{formatting.printable(state):9}", fg=COLOURS.get(state))
    cells = (record.open_count, record.click_count, record.email_id, record.to)
    return _cells(formatting.time(record.sent_at), shown, *map(formatting.printable, cells))


def _cells(at: str, state: str, *others: str) -> str:
    """Return a line that fits the terminal: a narrow one has no counts, and the address may be cut."""
    columns = output.columns()
    line = LINE if columns is None or columns >= NARROW_COLUMNS else NARROW_LINE
    *counts_and_id, to = others
    before = len(line.format(at, " " * 9, *counts_and_id, ""))
    return line.format(at, state, *counts_and_id, formatting.clipped(to, columns and max(columns - before, 1)))


def _is_in(record: EmailRecipientRecord, states: Sequence[str]) -> bool:
    state = _state(record)
    return not states or state in states or ("failed" in states and record.failed)


def _state(record: EmailRecipientRecord) -> str:
    if record.complained_at:
        return "complaint"
    if record.failed:
        return record.failure.kind if record.failure else "failed"
    if record.delivered:
        return "delivered"
    return "delayed" if record.delay else "sent"

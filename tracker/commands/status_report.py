# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `status` asks the running tracker, and how it tells the answer."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract
from shared.commands import command, formatting
from shared.contract import EmailRecipientRecord, GetEmailStatusRequest
from shared.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.commands.caller import Caller

NAME: Final = "lfx-email-tracker status"
PAGE: Final = 500
HEAD: Final = ("SENT AT", "STATE", "OPENS", "CLICKS", "EMAIL ID", "TO")
LINE: Final = "{:19}  {:9}  {:>5}  {:>6}  {:36}  {}"
"""Of fixed widths, for a group may have any length and is told as it comes."""


def tell_email(email_id: str, *, as_json: bool) -> None:
    """Print the record of an email."""

    async def work() -> EmailRecipientRecord:
        async with command.connected(NAME) as caller:
            request = GetEmailStatusRequest(email_id=email_id)
            return await caller.ask(contract.GET_EMAIL_STATUS_SUBJECT, request, EmailRecipientRecord)

    record = command.run(work())
    if as_json:
        command.print_json(record)
        return
    fields: dict[str, Any] = msgspec.to_builtins(record)
    command.print_table([row for name, value in fields.items() for row in _rows(name, value)])


def tell_group(group_id: str, *, as_json: bool) -> None:
    """Print the records of a group as the pages come in; say how many emails have none."""

    async def work() -> int:
        missing = asked_for = 0
        async with command.connected(NAME) as caller:
            async for records, of in pages(caller, group_id):
                if not as_json and not asked_for:
                    click.echo(LINE.format(*HEAD))
                for record in records:
                    command.print_json(record) if as_json else click.echo(_line(record))
                asked_for += of
                missing += of - len(records)
        return missing

    if missing := command.run(work()):
        command.say(f"Emails of the group whose record is missing or cannot be read: {missing:,}")


async def pages(caller: Caller, group_id: str) -> AsyncIterator[tuple[list[EmailRecipientRecord], int]]:
    """Return the records of a group page by page, and how many emails each page stands for.

    A page leaves out records that are missing, so that only the analytics tell where the group ends.
    """
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
        yield records[:asked_for], asked_for  # more were sent meanwhile
        offset += asked_for


def _rows(name: str, value: Any) -> list[tuple[str, object]]:
    """Return the lines of a field; a list has one line for each element, an object one for each field."""
    match value:
        case dict():
            return [(f"{name}.{inner}", said) for inner, said in value.items()]
        case list() | tuple():
            return [(name, _element(one)) for one in value]
        case bool():
            return [(name, value)]
        case _:
            return [(name, str(value))]


def _element(value: dict[str, Any] | str) -> str:
    """Write an open or a click without the id of its event, and what the Go service keeps of a click as it is."""
    if isinstance(value, str):
        return value
    return "  ".join(str(said) for name, said in value.items() if name != "event_id")


def _line(record: EmailRecipientRecord) -> str:
    said = (_state(record), record.open_count, record.click_count, record.email_id, record.to)
    return LINE.format(record.sent_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"), *map(formatting.printable, said))


def _state(record: EmailRecipientRecord) -> str:
    if record.failed:
        return record.failure.kind if record.failure else "failed"
    return "delivered" if record.delivered else "sent"

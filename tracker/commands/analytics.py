# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker analytics`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from shared import contract
from shared.commands import command, formatting
from shared.contract import GetEmailEngagementAnalyticsResponse
from shared.errors import RequestRefused, RequestUnanswered, ServiceUnreachable
from tracker.commands import not_found

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.commands.caller import Caller

NAME: Final = "lfx-email-tracker analytics"
PASSING: Final = frozenset({contract.SERVICE_BUSY, contract.INTERNAL_ERROR})  # errors after which --watch continues
COUNTS: Final = ("total_sent", "delivered", "opened", "unique_opened", "failed")

HEADS: Final = {head: max(len(head), 8) for head in (name.replace("_", " ").upper() for name in COUNTS)}
"""The headings, with the widths of their columns."""


@click.command(cls=command.Command)
@click.argument("group", required=False, cls=command.HiddenArgument)  # how older versions named the group
@click.option("--group-id", metavar="ID", help="The group.")
@click.option("--watch", is_flag=True, help="Ask again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=command.Seconds(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait between two requests.",
)
@command.json_option
def analytics(group: str | None, group_id: str | None, interval: float, *, watch: bool, as_json: bool) -> None:
    """Count the emails of a group: sent, delivered, opened, failed.

    Asks the running tracker over NATS. --watch prints one line for each answer, and waits for a tracker that goes away.
    Ends with 1 if nothing was sent under the group.

    \b
    Examples:
      lfx-email-tracker analytics --group-id efba8440-8256-4d52-bab3-55d7072201f4
      lfx-email-tracker analytics --group-id speakers --watch --interval 2
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    if bool(group) == bool(group_id):
        raise click.UsageError("Give --group-id once." if group else "--group-id is missing.")
    wanted = group_id or group or ""
    if watch:
        command.run(_watch(wanted, interval, command.print_json if as_json else _Lines()))
        return
    counted = command.run(_once(wanted))
    if as_json:
        command.print_json(counted)
    else:
        command.print_table([("group_id", counted.group_id), *((name, getattr(counted, name)) for name in COUNTS)])


async def _once(group_id: str) -> GetEmailEngagementAnalyticsResponse:
    async with command.connected(NAME) as caller:
        return await _ask(caller, group_id)


async def _watch(group_id: str, interval: float, show: Callable[[GetEmailEngagementAnalyticsResponse], object]) -> None:
    """Ask again and again; the first answer must come at once, later failures are printed."""
    async with command.connected(NAME) as caller:
        show(await _ask(caller, group_id))
        while True:
            await asyncio.sleep(interval)
            try:
                show(await _ask(caller, group_id))
            except (ServiceUnreachable, RequestUnanswered, RequestRefused) as error:
                if isinstance(error, RequestRefused) and error.error not in PASSING:
                    raise
                command.say(str(error))


async def _ask(caller: Caller, group_id: str) -> GetEmailEngagementAnalyticsResponse:
    request = contract.GetEmailEngagementAnalyticsRequest(group_id=group_id)
    subject = contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT
    with not_found.group_named(group_id):
        return await caller.ask(subject, request, GetEmailEngagementAnalyticsResponse)


class _Lines:
    """Prints one line for each answer, below a head."""

    def __init__(self) -> None:
        self._has_head = False

    def __call__(self, counted: GetEmailEngagementAnalyticsResponse) -> None:
        if not self._has_head:
            click.echo(f"{'TIME':20}  " + "  ".join(f"{head:>{width}}" for head, width in HEADS.items()))
            self._has_head = True
        cells = [f"{getattr(counted, name):>{width}}" for name, width in zip(COUNTS, HEADS.values(), strict=True)]
        if counted.failed:
            cells[-1] = click.style(cells[-1], fg="red")
        click.echo("  ".join((formatting.time(datetime.now(UTC)), *cells)))

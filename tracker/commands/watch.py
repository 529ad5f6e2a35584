# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker watch`: subscribes to the push subjects and prints the selected events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract, decoding, group_index
from shared.commands import command, formatting
from shared.commands.command import Failed

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from shared.nats.connection import Connection

NAME: Final = "lfx-email-tracker watch"
MAX_WAITING: Final = 10_000  # events that wait for a slow terminal
KINDS: Final = {
    contract.EMAIL_DELIVERED_SUBJECT: "delivered",
    contract.EMAIL_OPENED_SUBJECT: "opened",
    contract.EMAIL_LINK_CLICKED_SUBJECT: "clicked",
    contract.EMAIL_FAILED_SUBJECT: "failed",
}
TIMES: Final = ("delivered_at", "opened_at", "clicked_at", "failed_at")
DETAILS: Final = ("reason", "link", "open_count", "click_count", "failure", "tags")

_decode = decoding.decoder(dict[str, Any])


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The events to print."""

    kinds: frozenset[str]
    group_id: str | None = None
    email_id: str | None = None

    def has(self, event: dict[str, Any]) -> bool:
        """Return whether an event belongs to the selected group and email."""
        if self.group_id and event.get("group_id") != self.group_id:
            return False
        return not self.email_id or event.get("email_id") == self.email_id


@click.command(cls=command.Command)
@click.option(
    "--kind", "kinds", type=click.Choice(tuple(KINDS.values())), multiple=True, help="Only this kind; may be repeated."
)
@click.option("--group-id", metavar="ID", help="Only emails of this group.")
@click.option("--email-id", metavar="ID", help="Only this email.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@command.json_option
def watch(
    kinds: tuple[str, ...], group_id: str | None, email_id: str | None, count: int | None, *, as_json: bool
) -> None:
    """Show push events as the tracker publishes them, until Ctrl-C.

    An event that is published while the connection to NATS is lost, or a permission, is not seen: push events are not
    stored.

    \b
    Examples:
      lfx-email-tracker watch
      lfx-email-tracker watch --group-id speakers --kind failed
      lfx-email-tracker watch --count 100 --json | jq -r .email_id
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    wanted = group_index.email_id_of(email_id) if email_id else None
    selection = Selection(kinds=frozenset(kinds or KINDS.values()), group_id=group_id, email_id=wanted)
    command.run(_watch(selection, count, as_json=as_json))


async def _watch(selection: Selection, count: int | None, *, as_json: bool) -> None:
    """Print `count` events, or events without limit.

    Raises:
        Failed: the NATS user may not subscribe.
    """
    async with command.connected(NAME) as caller:
        waiting = _WaitingEvents()
        await _subscribe(caller.connection, selection, waiting)
        command.say("Watching; Ctrl-C ends it.")
        printed = 0
        while count is None or printed < count:
            printed += _print(await waiting.next(), selection, as_json=as_json)


async def _subscribe(connection: Connection, selection: Selection, waiting: _WaitingEvents) -> None:
    subjects = [subject for subject, kind in KINDS.items() if kind in selection.kinds]
    subscriptions = [await connection.subscribe(subject, waiting.receive) for subject in subjects]
    await connection.flush()
    for denied in filter(None, map(connection.denial_of, subscriptions)):
        raise Failed(str(denied))


class _WaitingEvents:
    """The messages that wait to be printed; at MAX_WAITING further ones are dropped and counted."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Msg] = asyncio.Queue(MAX_WAITING)
        self._dropped = 0

    def receive(self, message: Msg) -> None:
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._dropped += 1

    async def next(self) -> Msg:
        if self._dropped:
            command.say(f"Events that came too fast to be printed: {self._dropped:,}")
            self._dropped = 0
        return await self._waiting.get()


def _print(message: Msg, selection: Selection, *, as_json: bool) -> bool:
    """Print an event if it is selected; return whether it was."""
    kind = KINDS[message.subject]
    try:
        event = _decode(message.data)
    except decoding.Malformed as error:
        command.say(f"{message.subject}: not a push event: {error}")
        return False
    if not selection.has(event):
        return False
    if as_json:
        command.print_json({"kind": kind, **event})
    else:
        click.echo(_line(kind, event))
    return True


def _line(kind: str, event: dict[str, Any]) -> str:
    at = next((str(event[name]) for name in TIMES if name in event), "")
    ids = f"{formatting.printable(event.get('email_id')):36}  {formatting.printable(event.get('group_id')):36}"
    details = "".join(f"  {detail}" for name in DETAILS if name in event for detail in _details(name, event[name]))
    return f"{formatting.printable(at):24}  {kind:9}  {ids}{details}".rstrip()


def _details(name: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}.{formatting.printable(inner)}={formatting.printable(field)}" for inner, field in value.items()]
    return [f"{name}={formatting.printable(value)}"]

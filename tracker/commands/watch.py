# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker watch`: prints the selected push events, live or from the stream that keeps them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract, decoding, error_texts, group_index
from shared.commands import command, formatting, output
from shared.commands.command import Failed
from shared.errors import NotPermitted
from shared.nats.inbox import Inbox
from tracker.commands.since import Since
from tracker.commands.stored_events import StoredEvents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

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
@click.option("--since", type=Since(), metavar="TIME", help="Begin with the stored events of this time or age.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@command.json_option
def watch(  # noqa: PLR0913 - click passes each option
    kinds: tuple[str, ...],
    group_id: str | None,
    email_id: str | None,
    since: datetime | None,
    count: int | None,
    *,
    as_json: bool,
) -> None:
    """Show push events as they are published, until Ctrl-C.

    An event that is published while the connection to NATS is lost, or a permission, is not seen. With --since the
    events are read from the stream that keeps them (PUSH_EVENTS_DURABLE=true of the tracker): first those since the
    time, then further ones as they come, each once, also after a lost connection. TIME is an age (30m, 2h, 7d, 1h30m)
    or a time of RFC 3339.

    \b
    Examples:
      lfx-email-tracker watch
      lfx-email-tracker watch --group-id speakers --kind failed
      lfx-email-tracker watch --since 2h --kind failed
      lfx-email-tracker watch --since 2026-01-02T03:04:05Z --json
      lfx-email-tracker watch --count 100 --json | jq -r .email_id
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    if since and since > datetime.now(UTC):
        raise click.BadParameter("the time is in the future", param_hint="--since")
    wanted = group_index.email_id_of(email_id) if email_id else None
    selection = Selection(kinds=frozenset(kinds or KINDS.values()), group_id=group_id, email_id=wanted)
    command.run(_watch(selection, since, count, as_json=as_json))


async def _watch(selection: Selection, since: datetime | None, count: int | None, *, as_json: bool) -> None:
    """Print `count` events, or events without limit.

    Raises:
        Failed: the NATS user may not subscribe, or not read the stream.
        SetupIncomplete: there is no stream to read from.
    """
    subjects = [subject for subject, kind in KINDS.items() if kind in selection.kinds]
    async with command.connected(NAME) as caller:
        events = _live(caller.connection, subjects) if since is None else _stored(caller.connection, subjects, since)
        printed = 0
        async with aclosing(events):
            async for message in events:
                printed += _print(message, selection, as_json=as_json)
                if printed == count:
                    return


def _begin() -> None:
    command.say("Watching; Ctrl-C ends it.")


async def _live(connection: Connection, subjects: Sequence[str]) -> AsyncGenerator[Msg]:
    """Yield the events that are published from now on."""
    waiting = _WaitingEvents()
    await _subscribe(connection, subjects, waiting)
    _begin()
    while True:
        yield await waiting.next()


async def _stored(connection: Connection, subjects: Sequence[str], since: datetime) -> AsyncGenerator[Msg]:
    """Yield the stored events since a time, and those that follow."""
    async with Inbox(connection) as inbox:
        stored = StoredEvents(connection, inbox, subjects, since, lambda why: command.say(f"Interrupted: {why}"))
        try:
            async for message in stored.read(_begin):
                yield message
        except NotPermitted as error:
            raise Failed(str(error)) from error


async def _subscribe(connection: Connection, subjects: Sequence[str], waiting: _WaitingEvents) -> None:
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
        command.say(f"{message.subject}: not a push event: {error_texts.in_words(error)}")
        return False
    if not selection.has(event):
        return False
    if as_json:
        command.print_json({"kind": kind, **event})
    else:
        click.echo(_line(kind, event))
    return True


def _line(kind: str, event: dict[str, Any]) -> str:
    at = next((_time(event[name]) for name in TIMES if name in event), "")
    shown = click.style(f"{kind:9}", fg="red") if kind == "failed" else f"{kind:9}"
    head = f"{formatting.printable(at):20}  {shown}  {formatting.printable(event.get('email_id')):36}"
    details = [detail for name in DETAILS if name in event for detail in _details(name, event[name])]
    group_id = f"{formatting.printable(event.get('group_id')):36}"
    return formatting.in_lines(head, [group_id, *details], output.columns())


def _time(value: object) -> str:
    try:
        return formatting.time(datetime.fromisoformat(str(value)))
    except ValueError:
        return str(value)


def _details(name: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}.{formatting.printable(inner)}={formatting.printable(field)}" for inner, field in value.items()]
    return [f"{name}={formatting.printable(value)}"]

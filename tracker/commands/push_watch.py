# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `watch` does: it subscribes to the push subjects, and tells each event that is wanted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract
from shared.commands import command, table

if TYPE_CHECKING:
    from nats.aio.msg import Msg

NAME: Final = "lfx-email-tracker watch"
MAX_UNTOLD: Final = 10_000  # events kept for a terminal that is slow
KINDS: Final = {
    contract.EMAIL_DELIVERED_SUBJECT: "delivered",
    contract.EMAIL_OPENED_SUBJECT: "opened",
    contract.EMAIL_LINK_CLICKED_SUBJECT: "clicked",
    contract.EMAIL_FAILED_SUBJECT: "failed",
}
TIMES: Final = ("delivered_at", "opened_at", "clicked_at", "failed_at")
DETAILS: Final = ("reason", "link", "open_count", "click_count", "failure", "tags")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are to be told."""

    kinds: frozenset[str]
    group_id: str | None = None
    email_id: str | None = None

    def has(self, event: dict[str, Any]) -> bool:
        """Tell whether an event is one of them."""
        if self.group_id and event.get("group_id") != self.group_id:
            return False
        return not self.email_id or event.get("email_id") == self.email_id


async def watch(wanted: Wanted, count: int | None, *, as_json: bool) -> None:
    """Tell events until `count` of them are told, or for ever.

    Raises:
        Failed: the NATS user may not subscribe.
    """
    messages: asyncio.Queue[Msg | Exception] = asyncio.Queue(MAX_UNTOLD)
    lost = 0

    def receive(message: Msg | Exception) -> None:
        nonlocal lost
        try:
            messages.put_nowait(message)
        except asyncio.QueueFull:
            lost += 1

    def fail(error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            receive(error)

    async with command.connected(NAME) as caller:
        caller.connection.on_error(fail)
        for subject in (subject for subject, kind in KINDS.items() if kind in wanted.kinds):
            await caller.connection.subscribe(subject, receive)
        await caller.connection.flush()
        command.say("Watching; Ctrl-C ends it.")
        told = 0
        while count is None or told < count:
            message = await messages.get()
            if isinstance(message, Exception):
                raise command.Failed(str(message))
            told += _tell(message, wanted, as_json=as_json)
            if lost:
                command.say(f"Events that came too fast to be told: {lost:,}")
                lost = 0


def _tell(message: Msg, wanted: Wanted, *, as_json: bool) -> bool:
    """Tell an event, if it is wanted; return whether it was."""
    kind = KINDS[message.subject]
    try:
        event = msgspec.json.decode(message.data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        command.say(f"{message.subject}: no event: {error}")
        return False
    if not wanted.has(event):
        return False
    if as_json:
        command.print_json({"kind": kind, **event})
    else:
        click.echo(_line(kind, event))
    return True


def _line(kind: str, event: dict[str, Any]) -> str:
    at = next((str(event[name]) for name in TIMES if name in event), "")
    ids = f"{table.printable(event.get('email_id')):36}  {table.printable(event.get('group_id')):36}"
    details = "".join(f"  {told}" for name in DETAILS if name in event for told in _details(name, event[name]))
    return f"{table.printable(at):24}  {kind:9}  {ids}{details}".rstrip()


def _details(name: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}.{table.printable(inner)}={table.printable(said)}" for inner, said in value.items()]
    return [f"{name}={table.printable(value)}"]

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What `watch` does: it subscribes to the push subjects, and tells each event that is wanted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shared import contract
from shared.commands import command, formatting
from shared.commands.command import Failed
from shared.nats import permissions

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
    async with command.connected(NAME) as caller:
        pushes = _Pushes()
        caller.connection.on_error(pushes.fail)
        for subject in (subject for subject, kind in KINDS.items() if kind in wanted.kinds):
            await caller.connection.subscribe(subject, pushes.receive)
        await caller.connection.flush()
        command.say("Watching; Ctrl-C ends it.")
        told = 0
        while count is None or told < count:
            told += _tell(await pushes.next(), wanted, as_json=as_json)


class _Pushes:
    """The messages that wait to be told, as far as there is room for them."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Msg | Failed] = asyncio.Queue(MAX_UNTOLD)
        self._lost = 0

    def receive(self, message: Msg | Failed) -> None:
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._lost += 1

    def fail(self, error: Exception) -> None:
        if denied := permissions.denial_in(error):
            self.receive(Failed(str(denied)))

    async def next(self) -> Msg:
        if self._lost:
            command.say(f"Events that came too fast to be told: {self._lost:,}")
            self._lost = 0
        message = await self._waiting.get()
        if isinstance(message, Failed):
            raise message
        return message


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
    ids = f"{formatting.printable(event.get('email_id')):36}  {formatting.printable(event.get('group_id')):36}"
    details = "".join(f"  {told}" for name in DETAILS if name in event for told in _details(name, event[name]))
    return f"{formatting.printable(at):24}  {kind:9}  {ids}{details}".rstrip()


def _details(name: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}.{formatting.printable(inner)}={formatting.printable(said)}" for inner, said in value.items()]
    return [f"{name}={formatting.printable(value)}"]

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker watch`."""

from __future__ import annotations

import click

from shared.commands import command

KINDS = ("delivered", "opened", "clicked", "failed")


@click.command(cls=command.Command)
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only these; may be given again.")
@click.option("--group-id", metavar="ID", help="Only emails of this group.")
@click.option("--email-id", metavar="ID", help="Only this email.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@command.json_option
def watch(
    kinds: tuple[str, ...], group_id: str | None, email_id: str | None, count: int | None, *, as_json: bool
) -> None:
    """Show push events as the tracker publishes them, until Ctrl-C.

    An event that is published while the connection to NATS is lost is not seen: push events are not stored.

    \b
    Examples:
      lfx-email-tracker watch
      lfx-email-tracker watch --group-id speakers --kind failed
      lfx-email-tracker watch --count 100 --json | jq -r .email_id
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from tracker.commands import push_watch  # noqa: PLC0415 - so that --help and completion do not wait for it

    wanted = push_watch.Wanted(kinds=frozenset(kinds or KINDS), group_id=group_id, email_id=email_id)
    command.run(push_watch.watch(wanted, count, as_json=as_json))

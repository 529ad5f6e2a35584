# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker status`."""

from __future__ import annotations

import click

from shared.commands import command


@click.command(cls=command.Command)
@click.argument("email_id", required=False)
@click.option("--group-id", metavar="ID", help="All emails of this group, in the order in which they were sent.")
@command.json_option
def status(email_id: str | None, group_id: str | None, *, as_json: bool) -> None:
    """Show what became of an email, or of each email of a group.

    Asks the running tracker over NATS. A group of any size is fetched in pages; with --json each email is one line.
    Ends with 1 if there is no such email or group.

    \b
    Examples:
      lfx-email-tracker status e57f26e7-4995-4b9e-accc-4b4e135eb122
      lfx-email-tracker status --group-id efba8440-8256-4d52-bab3-55d7072201f4
      lfx-email-tracker status --group-id speakers --json | jq -r 'select(.failed) | .to'
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from tracker.commands import status_report  # noqa: PLC0415 - so that --help and completion do not wait for it

    if bool(email_id) == bool(group_id):
        raise click.UsageError("Give either EMAIL_ID or --group-id.")
    if email_id:
        status_report.tell_email(email_id, as_json=as_json)
    elif group_id:
        status_report.tell_group(group_id, as_json=as_json)

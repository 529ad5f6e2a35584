# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker replay`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from shared.commands import command


@click.command(cls=command.Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Tell what each event would do, and write nothing.")
@click.option("--no-announce", is_flag=True, help="Publish no push events.")
@click.option(
    "--failed-to",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the messages that failed to this new file, to be replayed later.",
)
@command.json_option
def replay(file: str, failed_to: Path | None, *, dry_run: bool, no_announce: bool, as_json: bool) -> None:
    """Apply saved SQS messages, such as those of a dead-letter queue, as if they came now.

    FILE has one JSON document a line, or documents over several lines, or arrays: bodies of messages, whole messages
    (MessageId, Body), or answers of "aws sqs receive-message". It may be packed with gzip; - is standard input.

    Each event goes the way of a live one: record, suppression list (with SUPPRESSION_ENABLED=true), push event. What
    was applied before is a duplicate and changes nothing, so a replay can be repeated. Needs NATS, and no AWS. Ends
    with 1 if anything failed or was malformed.

    \b
    Examples:
      aws sqs receive-message --queue-url $DLQ --max-number-of-messages 10 >> saved.json
      lfx-email-tracker replay saved.json --dry-run
      lfx-email-tracker replay saved.json --failed-to rest.json
      kubectl exec -i deploy/lfx-v2-email-tracker -- lfx-email-tracker replay - < saved.json
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    from tracker.commands.replay import report as replay_tally  # noqa: PLC0415
    from tracker.commands.replay import run as replay_run  # noqa: PLC0415 - so that --help and completion do not wait for it

    if failed_to and failed_to.exists():
        raise click.UsageError(f"--failed-to {failed_to}: there is such a file already")
    if failed_to and not os.access(failed_to.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"--failed-to {failed_to}: no file can be made there")
    options = replay_tally.Options(failed_to=failed_to, dry_run=dry_run, announce=not no_announce, as_json=as_json)
    replay_run.run(file, options)

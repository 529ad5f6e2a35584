# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker replay`: applies the saved messages of a file while it is read."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shared import contract
from shared.commands import command
from shared.kv.bucket import Bucket
from shared.nats.inbox import Inbox
from shared.service import settings, threads
from shared.suppression_list import SuppressionList
from tracker.commands import input_file
from tracker.commands.replay import replayer, saved_messages
from tracker.commands.replay.dry_run import DryRun
from tracker.commands.replay.replayer import Live
from tracker.commands.replay.report import Options, Report
from tracker.events.push_events import PushEvents, publish_nothing
from tracker.events.rebuilder import Rebuilder
from tracker.events.rebuilding import Rebuilding
from tracker.events.record_updater import RecordUpdater, suppress_nobody
from tracker.events.suppression import Suppressor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tracker.commands.replay.replayer import Apply

NAME: Final = "lfx-email-tracker replay"
BATCH: Final = 256


class ReplaySettings(settings.NatsSettings, frozen=True, kw_only=True):
    """The variables of the tracker that a replay reads."""

    suppression_enabled: bool = False


@click.command(cls=command.Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Show what each event would do, and write nothing.")
@click.option("--no-announce", is_flag=True, help="Publish no push events.")
@click.option(
    "--rebuild", is_flag=True, help="Make missing records from their events, and put emails into their groups."
)
@click.option(
    "--failed-to",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the messages that failed to this new file, to be replayed later.",
)
@command.json_option
def replay(  # noqa: PLR0913 - the options
    file: str, failed_to: Path | None, *, dry_run: bool, no_announce: bool, rebuild: bool, as_json: bool
) -> None:
    """Apply saved SQS messages, such as those of a DLQ.

    FILE has one JSON document a line, or answers of "aws sqs receive-message", or arrays. A document is the body of a
    message, a whole message (MessageId, Body), or the event of a Lambda function (Records). The file may be compressed
    with gzip; - is standard input.

    Each event updates the record and the suppression list (with SUPPRESSION_ENABLED=true) and is published as a push
    event, like a live one. An event that was applied before is a duplicate and changes nothing, so a replay can be
    repeated. With --rebuild it also brings back the records and the groups that a restored backup lacks. Needs NATS,
    but not AWS. Ends with 1 if an event failed or was malformed.

    \b
    Examples:
      aws sqs receive-message --queue-url $DLQ --max-number-of-messages 10 >> saved.json
      lfx-email-tracker replay saved.json --dry-run
      lfx-email-tracker replay saved.json --failed-to rest.json
      kubectl exec -i deploy/lfx-v2-email-tracker -- lfx-email-tracker replay - < saved.json
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    if failed_to and failed_to.exists():
        raise click.UsageError(f"--failed-to {failed_to}: the file exists already; name a new one")
    if failed_to and not os.access(failed_to.parent, os.W_OK | os.X_OK):
        raise click.UsageError(f"--failed-to {failed_to}: no file can be created in {failed_to.parent}")
    options = Options(failed_to=failed_to, dry_run=dry_run, announce=not no_announce, rebuild=rebuild, as_json=as_json)
    report = Report(options)
    interrupted, unreadable = 0, ""
    try:
        command.run(_replay(file, options, report))
    except SystemExit as signalled:
        interrupted = int(str(signalled.code))
    except input_file.Unreadable as error:
        unreadable = f"{file}: {error}"
    report.end(unreadable=unreadable, interrupted=interrupted)


async def _replay(file: str, options: Options, report: Report) -> None:
    ending = asyncio.Event()
    async with _applier(options, ending) as apply:
        with _without_log_lines(), input_file.opened(file) as pieces:
            batches = saved_messages.batches(saved_messages.read(pieces), BATCH)
            while batch := await threads.run(lambda: next(batches, None)):
                work = asyncio.ensure_future(replayer.replay(batch, apply, ending))
                try:
                    report.add(batch, await asyncio.shield(work))
                except asyncio.CancelledError:  # finish the events under way, so that none is half applied
                    ending.set()
                    report.add(batch, await work)
                    raise


@asynccontextmanager
async def _applier(options: Options, ending: asyncio.Event) -> AsyncIterator[Apply]:
    config = settings.load(command.environ(), ReplaySettings)
    async with command.connected(NAME) as caller, Inbox(caller.connection) as inbox:
        recipients, index, suppressions = (
            Bucket(inbox, caller.connection, name)
            for name in (
                contract.EMAIL_RECIPIENTS_BUCKET,
                contract.EMAIL_GROUP_INDEX_BUCKET,
                contract.EMAIL_SUPPRESSIONS_BUCKET,
            )
        )
        used = {recipients: True, index: options.rebuild, suppressions: config.suppression_enabled}
        for bucket in (bucket for bucket, is_used in used.items() if is_used):
            await bucket.info()  # raises BucketMissing at once; else each event would wait for the bucket
        rebuilder = Rebuilder(recipients, index) if options.rebuild else None
        if options.dry_run:
            listed = SuppressionList(suppressions) if config.suppression_enabled else None
            yield DryRun(recipients, listed, rebuilder)
        else:
            publish = PushEvents(caller.connection) if options.announce else publish_nothing
            suppress = Suppressor(SuppressionList(suppressions)) if config.suppression_enabled else suppress_nobody
            updater = RecordUpdater(recipients, publish, suppress, group=rebuilder.group if rebuilder else None)
            yield Live(Rebuilding(rebuilder, updater).restore if rebuilder else updater.apply, ending)


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Suppress the log lines of the tracker: the report has the result of each event."""
    logger = logging.getLogger("tracker")
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)

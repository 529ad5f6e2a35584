# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One replay: the file is read as it is applied, what became of each event is told, and all of it counted."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from shared import contract
from shared.commands import command
from shared.kv.bucket import Bucket
from shared.nats.inbox import Inbox
from shared.service import settings
from shared.service import threads as daemon_thread
from shared.suppression_list import SuppressionList
from tracker.commands import input_file
from tracker.commands.input_file import Unreadable
from tracker.commands.replay import saved_messages as replay_file
from tracker.commands.replay.dry_run import Rehearsal
from tracker.commands.replay.replayer import Live, OutcomeName, Replayer
from tracker.commands.replay.report import Options, Tally
from tracker.events.push_events import PushEvents, publish_nothing
from tracker.events.record_updater import RecordUpdater, suppress_nobody
from tracker.events.suppression import Suppressor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tracker.commands.replay.replayer import Applies
    from tracker.commands.replay.report import Summary

NAME: Final = "lfx-email-tracker replay"
BATCH: Final = 256
MEANINGS: Final[dict[OutcomeName, str]] = {
    "applied": "said something new",
    "duplicate": "was known already",
    "unmatched": "there is no record of its email",
    "ignored": "of a type that nobody counts",
    "malformed": "no event of ours",
    "failed": "could not be applied",
}


class ReplaySettings(settings.NatsSettings, frozen=True, kw_only=True):
    """What a replay reads of the tracker's variables."""

    suppression_enabled: bool = False


def run(file: str, options: Options) -> None:
    """Replay a file; end with a status of `command`."""
    interrupted = 0
    unreadable = ""
    with Tally(options) as tally:
        try:
            command.run(_replay(file, options, tally))
        except SystemExit as signalled:
            interrupted = int(str(signalled.code))
        except Unreadable as error:
            unreadable = f"{file}: {error}"
    _tell(tally.summary(), options)
    _end(tally.summary(), unreadable, interrupted)


async def _replay(file: str, options: Options, tally: Tally) -> None:
    async with _applying(options) as applying:
        replayer = Replayer(applying)
        with _without_log_lines(), input_file.opened(file) as pieces:
            batches = replay_file.batches(replay_file.read(pieces), BATCH)
            while batch := await daemon_thread.run(lambda: next(batches, None)):
                work = asyncio.ensure_future(replayer.replay(batch))
                try:
                    tally.take(batch, await asyncio.shield(work))
                except asyncio.CancelledError:  # what is under way is finished, so that no event is half applied
                    replayer.end()
                    tally.take(batch, await work)
                    raise


@asynccontextmanager
async def _applying(options: Options) -> AsyncIterator[Applies]:
    config = settings.load(os.environ, ReplaySettings)
    async with command.connected(NAME) as caller, Inbox(caller.connection) as inbox:
        recipients = Bucket(inbox, caller.connection, contract.EMAIL_RECIPIENTS_BUCKET)
        suppressions = Bucket(inbox, caller.connection, contract.EMAIL_SUPPRESSIONS_BUCKET)
        for bucket in (recipients, suppressions) if config.suppression_enabled else (recipients,):
            await bucket.info()  # else each event would wait for a bucket that nobody has made
        if options.dry_run:
            yield Rehearsal(recipients, SuppressionList(suppressions) if config.suppression_enabled else None)
        else:
            publish = PushEvents(caller.connection) if options.announce else publish_nothing
            suppress = Suppressor(SuppressionList(suppressions)) if config.suppression_enabled else suppress_nobody
            yield Live(RecordUpdater(recipients, publish, suppress))


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Keep back the log lines of the tracker's rooms: what became of each event is told anyway."""
    logger = logging.getLogger("tracker")
    silent = logging.NullHandler()
    logger.addHandler(silent)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(silent)


def _tell(summary: Summary, options: Options) -> None:
    if options.as_json:
        command.print_json(summary)
    else:
        rows = [(name, getattr(summary, name), meaning) for name, meaning in MEANINGS.items()]
        command.print_table(rows, ("OUTCOME", "EVENTS", "MEANING"))
    if summary.suppressed:
        went = "would go" if summary.dry_run else "went"
        command.say(f"Addresses that {went} into the suppression list: {summary.suppressed}.")
    if summary.dry_run:
        command.say("This was a dry run: nothing was written.")
    if summary.failed and options.failed_to and not summary.dry_run:
        command.say(f"What failed is in {options.failed_to}.")
    if not summary.events:
        command.say("There was no event.")


def _end(summary: Summary, unreadable: str, interrupted: int) -> None:
    """End with the status that fits."""
    if interrupted:
        command.say(
            f"Interrupted: everything up to line {summary.up_to_line} is done. Replay the whole file to go on: what was"
            " applied is a duplicate then."
        )
        sys.exit(interrupted)
    if unreadable:
        raise command.Failed(f"{unreadable}; everything before is done")
    if bad := summary.failed + summary.malformed:
        raise command.Failed(f"{bad} of {summary.events} events failed or were malformed")

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The command `lfx-email-tracker erase`: makes the records of one person anonymous, in place."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import click
import msgspec

from shared import contract, decoding
from shared.commands import command, progress
from shared.erasure import Erasures
from shared.errors import BucketMissing, RevisionConflict, ValueTooLarge
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan
from shared.nats.inbox import Inbox
from shared.suppression_list import EntryCorrupt, SuppressionList
from tracker.commands.recipient_search import Address, RecipientSearch

if TYPE_CHECKING:
    from shared.commands.caller import Caller
    from shared.kv.scan import Stored

NAME: Final = "lfx-email-tracker erase"
AT_ONCE: Final = 16
UNREACHED: Final = (
    "events in the SQS queue and its dead-letter queue, and saved files of them",
    "logs, backups, and mirrors of the buckets",
    "group ids and idempotency keys that hold an address: the former stay, of the latter only digests are stored",
    "push events that subscribers have received, and those in the stream email-events",
    "what Amazon SES keeps, such as its own suppression list",
    "files that the commands send --csv, replay and suppressions export have written",
    "records that a Go service has in memory; links of later clicks that it stores (erase again)",
)
"""Where the address may still be."""

OLD_VALUES: Final = "old values of deleted records, kept by the history of the bucket: nats kv purge BUCKET EMAIL_ID"

OfSuppression = Literal["none", "kept", "removed"]


class Report(msgspec.Struct, kw_only=True):
    """What was found and done. `found` counts the records to erase, `erased` those that had data until now.

    `failed` has the ids of records that could not be erased.
    """

    address: str
    dry_run: bool
    found: int = 0
    erased: int = 0
    failed: list[str] = msgspec.field(default_factory=list)
    suppression: OfSuppression = "none"
    not_reached: tuple[str, ...] = UNREACHED


@click.command(cls=command.Command)
@click.option(
    "--to", "address", type=Address(), required=True, metavar="ADDRESS", help="The recipient whose data is erased."
)
@click.option("--yes", is_flag=True, help="Erase. Without this option, only show what would be erased.")
@click.option(
    "--with-suppression",
    is_flag=True,
    help="Also remove the address from the suppression list: mail to it is then sent again.",
)
@command.json_option
def erase(address: str, *, yes: bool, with_suppression: bool, as_json: bool) -> None:
    """Erase the personal data in all emails to an address. It cannot be undone.

    Recipient, subject, tags, links and the texts of mail servers are erased. Ids, times and counts stay, so analytics
    do not change. Later events of these emails bring no data back. The entry in the suppression list stays, since it
    keeps mail away from the address.

    May be interrupted and run again. Ends with 1 if a record could not be erased.

    \b
    Examples:
      lfx-email-tracker erase --to ada@example.com
      lfx-email-tracker erase --to 'Ada <ada@example.com>' --yes
    """  # noqa: D301 - click's mark for a paragraph that is not to be wrapped
    report = Report(address=address, dry_run=not yes)
    command.give_way()
    command.run(_erase(report, with_suppression=with_suppression))
    if as_json:
        command.print_json(report)
    else:
        rows = [("address", report.address), ("found", report.found), ("erased", report.erased)]
        command.print_table([*rows, ("suppression", report.suppression)])
    if not yes:
        command.say("Nothing was changed. Run it again with --yes to erase.")
    if not as_json:
        command.say("\n  - ".join(("Not reached, so check:", *report.not_reached)))
    if report.failed:
        raise command.Failed(f"records that could not be erased: {', '.join(report.failed)}")


async def _erase(report: Report, *, with_suppression: bool) -> None:
    async with command.connected(NAME) as caller, Inbox(caller.connection) as inbox:
        bucket = Bucket(inbox, caller.connection, contract.EMAIL_RECIPIENTS_BUCKET)
        if (await bucket.info()).config.max_msgs_per_subject != 1:
            report.not_reached += (OLD_VALUES,)
        suppressions = SuppressionList(Bucket(inbox, caller.connection, contract.EMAIL_SUPPRESSIONS_BUCKET))
        report.suppression = await _find_suppression(report.address, suppressions)
        await _erase_records(report, caller, inbox, bucket)
        if with_suppression and not report.dry_run and report.suppression == "kept":
            await suppressions.remove(report.address)
            report.suppression = "removed"


async def _erase_records(report: Report, caller: Caller, inbox: Inbox, bucket: Bucket) -> None:
    """Note the erasure, then erase: a record that a relay writes after the note is erased by the relay."""
    erasures, slots = Erasures(bucket), asyncio.Semaphore(AT_ONCE)

    async def erase_one(stored: Stored) -> None:
        async with slots:
            try:
                had_data = await erasures.erase(stored.key)
            except (decoding.Malformed, RevisionConflict, ValueTooLarge):
                report.failed.append(stored.key)
                return
        report.erased += had_data

    if not report.dry_run:
        await erasures.note(report.address, datetime.now(UTC))
    search = RecipientSearch(report.address)
    async with BucketScan(caller.connection, inbox, bucket) as scan:
        async for page in progress.pages(scan, lambda: f"{search.found:,} found"):
            selected = search.select_with_data(page)
            if not report.dry_run:
                for outcome in await asyncio.gather(*map(erase_one, selected), return_exceptions=True):
                    if outcome is not None:
                        raise outcome
    report.found = search.found
    report.failed += search.unreadable


async def _find_suppression(address: str, suppressions: SuppressionList) -> OfSuppression:
    try:
        return "kept" if await suppressions.find_latest(address) else "none"
    except EntryCorrupt:
        return "kept"
    except BucketMissing:
        return "none"

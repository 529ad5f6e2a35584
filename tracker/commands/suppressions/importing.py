# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Adds the rows of a file to the suppression list; an import that is repeated changes nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shared.commands import command, formatting
from shared.errors import BucketMissing, NotPermitted, StoreUnavailable
from shared.service import threads
from shared.suppression_list import EntryCorrupt
from tracker.commands import input_file
from tracker.commands.input_file import Unreadable
from tracker.commands.json_documents import Broken
from tracker.commands.suppressions import file as file_format
from tracker.commands.suppressions.file import Incomplete

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from shared.kv.scan import BucketScan
    from shared.suppression_list import Addition, SuppressionList
    from tracker.commands.suppressions.file import Row

    Opened = AbstractAsyncContextManager[tuple[SuppressionList, BucketScan]]

ALL_PAGES: Final = """None of its addresses was imported.
The AWS CLI gets all pages by itself, without its options --max-items and --no-paginate:
  aws sesv2 list-suppressed-destinations | lfx-email-tracker suppressions import -
To get one page after the other, append them to a file, and import it after the last page:
  aws sesv2 list-suppressed-destinations --no-paginate > list.json
  while token=$(jq -ers '.[-1].NextToken' list.json); do
    aws sesv2 list-suppressed-destinations --no-paginate --next-token "$token" >> list.json || break
  done"""
CONTINUE: Final = "To continue, repeat the command: entries that are in the list are kept."
BATCH: Final = 512
CONCURRENCY: Final = 32  # addresses
PATIENCE_SECONDS: Final = 30.0  # with a KV that does not answer


class Imported(msgspec.Struct):
    """The number of rows with each outcome; all rows up to `up_to_line` are done."""

    added: int = 0
    kept: int = 0
    replaced: int = 0
    wrong: int = 0
    up_to_line: int = 0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of an import."""

    replace: bool
    dry_run: bool
    as_json: bool


def run(file: str, reason: str, opened: Opened, options: Options) -> None:
    """Import a file into the list that is `opened`, and print the counts.

    Raises:
        Failed: a row is wrong, the file cannot be read to its end, or pages of an answer of AWS are missing.
        Unreachable: KV did not answer.
        SystemExit: a signal interrupted the import.
    """
    done, as_json = Imported(), options.as_json

    async def work() -> None:
        async with opened as (listed, _):
            with input_file.opened(file) as pieces:
                rows = file_format.read(pieces, reason=reason, now=datetime.now(UTC))
                await _Import(listed, done, options).add(rows)

    try:
        command.run(work())
    except BucketMissing:
        raise
    except SystemExit:
        _print(done, as_json=as_json)
        command.say(f"Interrupted. {CONTINUE}")
        raise
    except Incomplete as error:
        _print(done, as_json=as_json)
        raise command.Failed(f"{error}. {ALL_PAGES}") from error
    except (StoreUnavailable, Unreadable) as error:
        _print(done, as_json=as_json)
        is_passing = isinstance(error, StoreUnavailable) and not isinstance(error, NotPermitted)
        kind = command.Unreachable if is_passing else command.Failed
        raise kind(f"{error}. {CONTINUE}") from error
    _print(done, as_json=as_json)
    if options.dry_run:
        command.say("Dry run: nothing was written.")
    if done.wrong:
        others = "nothing was written" if options.dry_run else "all others are in the list"
        raise command.Failed(f"rows that are wrong: {done.wrong}; {others}")


def _print(done: Imported, *, as_json: bool) -> None:
    if as_json:
        command.print_json(done)
    else:
        command.print_table(list(msgspec.structs.asdict(done).items()))


class _Import:
    def __init__(self, listed: SuppressionList, done: Imported, options: Options) -> None:
        self._listed = listed
        self._done = done
        self._options = options
        self._seen: set[str] = set()  # of a dry run: addresses that the rows so far would have added
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._failure: Exception | None = None

    async def add(self, rows: Iterator[Row | Broken]) -> None:
        """Add all rows, BATCH at a time.

        Raises:
            StoreError: KV did not answer for PATIENCE_SECONDS.
        """
        while batch := await threads.run(lambda: list(islice(rows, BATCH))):
            by_address: dict[str, list[Row]] = {}
            for row in batch:
                if isinstance(row, Broken):
                    self._done.wrong += 1
                    command.say(f"line {row.line}: {formatting.printable(row.why)}")
                else:
                    by_address.setdefault(row.entry.address, []).append(row)
            for failed in await asyncio.gather(*map(self._add, by_address.values()), return_exceptions=True):
                if failed:
                    raise failed
            self._done.up_to_line = batch[-1].line

    async def _add(self, rows: Sequence[Row]) -> None:
        """Add the rows of one address in their order, so that with `replace` the last one stays."""
        async with self._slots:
            if self._failure:  # or each of the rows that wait would be tried for PATIENCE_SECONDS, too
                raise self._failure
            try:
                for row in rows:
                    await self._add_row(row)
            except Exception as error:
                self._failure = error
                raise

    async def _add_row(self, row: Row) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_is_passing),
            wait=wait_random_exponential(multiplier=0.1, max=3),
            stop=stop_after_delay(PATIENCE_SECONDS),
            reraise=True,
        ):
            with attempt:
                outcome = await (self._outcome_of(row) if self._options.dry_run else self._added(row))
                setattr(self._done, outcome, getattr(self._done, outcome) + 1)

    async def _added(self, row: Row) -> Addition:
        outcome, _ = await self._listed.add(row.entry, replace=self._options.replace)
        return outcome

    async def _outcome_of(self, row: Row) -> Addition:
        """Return the outcome that the row would have."""
        address = row.entry.address
        try:
            known = await self._listed.find_latest(address)
        except EntryCorrupt:
            return "replaced"
        if not known and address not in self._seen:
            self._seen.add(address)
            return "added"
        return "replaced" if self._options.replace and known != row.entry else "kept"


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, StoreUnavailable) and not isinstance(error, NotPermitted)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads a bucket page by page, slowly enough to leave NATS to the services, and shows on a terminal how far it is."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from shared.commands import output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shared.kv.scan import BucketScan, Stored

MAX_PER_SECOND: Final = 25_000  # values: a million in 40 s; NATS uses a tenth of a CPU for them
PAUSES_PER_PAGE: Final = 1.5  # a pause is at least so many times as long as the page before took: longer under load
PAUSE_SECONDS: Final = 0.2  # between two updates of the line
_CLEAR: Final = "\r\x1b[K"


async def pages(scan: BucketScan, found: Callable[[], str]) -> AsyncIterator[list[Stored]]:
    """Yield the pages of an opened scan; `found` returns the text behind the number of values on a terminal.

    Raises:
        StoreUnavailable: the values would not be complete.
    """
    is_shown = sys.stderr.isatty()
    shown_at = 0.0
    asked_at = time.monotonic()
    try:
        async for page in scan.pages():
            page_seconds = time.monotonic() - asked_at
            yield page
            now = time.monotonic()
            if is_shown and now - shown_at >= PAUSE_SECONDS:
                shown_at = now
                done, total = scan.reached
                _show(f"{_CLEAR}{done:,} of {total:,} records read, {found()}")
            next_at = max(asked_at + len(page) / MAX_PER_SECOND, now + page_seconds * PAUSES_PER_PAGE)
            await asyncio.sleep(max(0, next_at - now))
            asked_at = time.monotonic()
    finally:
        if shown_at:
            _show(_CLEAR)


def _show(text: str) -> None:
    try:
        click.echo(text, err=True, nl=False)
    except OSError:
        output.discard_unwritten()

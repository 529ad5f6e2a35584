# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads a bucket page by page, and shows on a terminal how far it is. Without a terminal nothing is shown."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from shared.commands import output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from shared.kv.scan import BucketScan, Stored

PAUSE_SECONDS: Final = 0.2  # between two updates of the line
_CLEAR: Final = "\r\x1b[K"


async def pages(scan: BucketScan, found: Callable[[], str]) -> AsyncIterator[list[Stored]]:
    """Yield the pages of an opened scan; `found` returns the text behind the number of values.

    Raises:
        StoreUnavailable: the values would not be complete.
    """
    is_shown = sys.stderr.isatty()
    shown_at = 0.0
    try:
        async for page in scan.pages():
            yield page
            if is_shown and time.monotonic() - shown_at >= PAUSE_SECONDS:
                shown_at = time.monotonic()
                done, total = scan.reached
                _show(f"{_CLEAR}{done:,} of {total:,} records read, {found()}")
    finally:
        if shown_at:
            _show(_CLEAR)


def _show(text: str) -> None:
    try:
        click.echo(text, err=True, nl=False)
    except OSError:
        output.discard_unwritten()

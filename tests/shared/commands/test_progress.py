# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The progress of reading a bucket is shown on a terminal only, and the reading is not faster than its limit."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from shared.commands import progress
from shared.kv import scan as bucket_scan
from shared.kv.bucket import Bucket
from shared.kv.scan import BucketScan
from shared.nats.inbox import Inbox

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

    from shared.nats.connection import Connection


async def read(kv: KeyValue, connection: Connection) -> list[str]:
    """Read nine values in pages of two."""
    for key in "abcdefghi":
        await kv.put(key, b"1")
    keys: list[str] = []
    async with Inbox(connection) as inbox, BucketScan(connection, inbox, Bucket(inbox, connection, "b")) as scan:
        async for page in progress.pages(scan, lambda: f"{len(keys)} found"):
            keys.extend(stored.key for stored in page)
    return keys


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values a page, and the progress after each page."""
    monkeypatch.setattr(bucket_scan, "PAGE", 2)
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0)


async def test_a_terminal_shows_the_progress_and_is_cleared_at_the_end(
    kv: KeyValue, nats_connection: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert await read(kv, nats_connection) == list("abcdefghi")
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert shown[1] == "2 of 9 records read, 2 found"
    assert shown[-2:] == ["9 of 9 records read, 9 found", ""]


async def test_without_a_terminal_nothing_is_shown(
    kv: KeyValue, nats_connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await read(kv, nats_connection) == list("abcdefghi")
    assert capsys.readouterr().err == ""


async def test_the_reading_keeps_to_its_speed(
    kv: KeyValue, nats_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MAX_PER_SECOND", 30)
    began = time.monotonic()
    await read(kv, nats_connection)
    assert time.monotonic() - began >= 9 / 30

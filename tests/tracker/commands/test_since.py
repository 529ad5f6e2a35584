# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`--since` is a time of RFC 3339, a date, or an age."""

from __future__ import annotations

from datetime import datetime

import click
import pytest

from tracker.commands.since import Since, since


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2h", "2026-01-02T01:04:05+00:00"),
        (" 30m ", "2026-01-02T02:34:05+00:00"),
        ("7d", "2025-12-26T03:04:05+00:00"),
        ("1h30m", "2026-01-02T01:34:05+00:00"),
        ("0s", "2026-01-02T03:04:05+00:00"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00"),
        ("2026-01-01t02:00:00.5+02:00", "2026-01-01T00:00:00.500000+00:00"),
        ("2026-01-01t02:00:00z", "2026-01-01T02:00:00+00:00"),
        ("2026-01-01 00:00:00.123456789Z", "2026-01-01T00:00:00.123456+00:00"),
        ("2026-01-01", "2026-01-01T00:00:00+00:00"),
        ("2026-01-01T02:00:00", "2026-01-01T02:00:00+00:00"),
    ],
)
def test_a_time_or_an_age_becomes_a_time_in_utc(text: str, means: str) -> None:
    assert since(text, datetime.fromisoformat("2026-01-02T03:04:05Z")).isoformat() == means


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2 hours", "1.5h", "yesterday", "2026-02-30T03:04:05Z", "999999999d", "\u0662h"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is neither a time such as .* nor a duration such as 7d"):
        Since().convert(text, None, None)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The value of the options `--since`: a time, or how long ago it was."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PART: Final = r"(\d{1,9})([dhms])"
_AGE: Final = re.compile(rf"(?:{_PART})+", re.ASCII)


class Since(click.ParamType):  # type: ignore[type-arg] # not generic in older versions of click
    """A time, or a duration before now: 2026-01-31, 2026-01-31T12:00:00Z, 7d, 24h, 90m, 1h30m."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            return since(value, datetime.now(UTC))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 7d", param, ctx)


def since(text: str, now: datetime) -> datetime:
    """Return the time that `text` means at the time `now`; without a time zone it is in UTC.

    Raises:
        ValueError: it is neither a time nor a duration.
        OverflowError: it is before the year 1.
    """
    text = text.strip()
    if _AGE.fullmatch(text):
        return now - timedelta(seconds=sum(int(count) * UNITS[unit] for count, unit in re.findall(_PART, text)))
    at = datetime.fromisoformat(text.upper())
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)

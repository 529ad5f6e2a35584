# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Whether KV is away, and since when it is back: meanwhile the relay could write no record either."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime


class StoreOutage:
    """What is known of the latest outage; before the first one it is over."""

    def __init__(self) -> None:
        """Begin with a store that was never away."""
        self.is_over = asyncio.Event()
        self.is_over.set()
        self._is_suspected = False
        self._ended_at = datetime.min.replace(tzinfo=UTC)

    def suspect(self) -> None:
        """Say that KV may have been away: then missing records are waited for anew, since the relay had to wait too."""
        self._is_suspected = True

    def begin(self) -> None:
        """Say that KV did not take something."""
        self.is_over.clear()
        self.suspect()

    def end(self) -> None:
        """Say that KV has answered, whether it was away or not."""
        if self._is_suspected:
            self._is_suspected = False
            self._ended_at = datetime.now(UTC)
            self.is_over.set()

    def waited_seconds(self, sent_at: datetime) -> float:
        """Return for how long the record of an event that was sent then could have been written."""
        return (datetime.now(UTC) - max(sent_at, self._ended_at)).total_seconds()

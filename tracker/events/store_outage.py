# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Whether KV is away, and since when it is back: during an outage the relay cannot write records either."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime


class StoreOutage:
    """The state of the latest outage. At the start there has not been one."""

    def __init__(self) -> None:
        """Begin without an outage."""
        self.is_over = asyncio.Event()
        self.is_over.set()
        self.reports = 0  # how often KV did not answer; during an outage, each message that is held adds some
        self._is_suspected = False
        self._ended_at = datetime.min.replace(tzinfo=UTC)

    def suspect(self) -> None:
        """Note that KV may have been away. The wait for a missing record then starts again, as the relay waited too."""
        self._is_suspected = True

    def begin(self) -> None:
        """Note that KV did not answer."""
        self.reports += 1
        self.is_over.clear()
        self._is_suspected = True

    def end(self) -> None:
        """Note that KV has answered, whether it was away or not."""
        if self._is_suspected:
            self._is_suspected = False
            self._ended_at = datetime.now(UTC)
            self.is_over.set()

    def waited_seconds(self, sent_at: datetime) -> float:
        """Return for how long the record of an event that was sent at that time could have been written."""
        return (datetime.now(UTC) - max(sent_at, self._ended_at)).total_seconds()

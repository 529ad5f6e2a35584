# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Whether KV or the stream of push events is away, and since when KV is back: the relay cannot write records either."""

from __future__ import annotations

import asyncio
import math
import time


class StoreOutage:
    """The state of the latest outage. At the start there has not been one."""

    def __init__(self) -> None:
        """Begin without an outage."""
        self.is_over = asyncio.Event()
        self.is_over.set()
        self.reports = 0  # how often KV or the stream did not answer; during an outage, each held message adds some
        self._is_suspected = False
        self._is_kv_away = False
        self._is_stream_away = False
        self._ended_on_clock = -math.inf

    def suspect(self) -> None:
        """Note that KV may have been away. The wait for a missing record then starts again, as the relay waited too."""
        self._is_suspected = True

    def begin(self) -> None:
        """Note that KV did not answer."""
        self.reports += 1
        self.is_over.clear()
        self._is_kv_away = self._is_suspected = True

    def end(self) -> None:
        """Note that KV has answered, whether it was away or not."""
        if self._is_suspected:
            self._is_kv_away = self._is_suspected = False
            self._ended_on_clock = time.monotonic()
            self._end_if_over()

    def begin_of_stream(self) -> None:
        """Note that the stream has not stored a push event."""
        self.reports += 1
        self._is_stream_away = True
        self.is_over.clear()

    def end_of_stream(self) -> None:
        """Note that the stream stores push events, or that none is waiting for it."""
        if self._is_stream_away:
            self._is_stream_away = False
            self._end_if_over()

    def _end_if_over(self) -> None:
        if not (self._is_kv_away or self._is_stream_away):
            self.is_over.set()

    def waited_seconds(self, sent_on_clock: float) -> float:
        """Return for how long the record of an event could have been written, that was sent at that monotonic time."""
        return time.monotonic() - max(sent_on_clock, self._ended_on_clock)

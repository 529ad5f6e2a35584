# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""I/O: one line on a terminal that shows how far a mailing is: done, failed, rate and time left."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Final, Self, TextIO

from shared.commands import output

if TYPE_CHECKING:
    from collections.abc import Callable

DRAW_SECONDS: Final = 0.1
WINDOW_SECONDS: Final = 10.0  # of the rate
CELLS: Final = 20


class Bar:
    """Draws the line again after each row, but at most ten times a second; clears it at the end."""

    def __init__(self, total: int, file: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        """Expect `total` rows."""
        self._total = total
        self._file = file
        self._now = now
        self._drawn_at = -DRAW_SECONDS
        self._done = self._failed = 0
        self._marks = [(now(), 0)]  # a time, and how many rows were done then

    def __enter__(self) -> Self:
        """Draw the line."""
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        """Clear the line."""
        self._write(output.CLEAR_LINE)

    def add(self, *, failed: bool) -> None:
        """Count a row."""
        self._done += 1
        self._failed += failed
        if self._now() - self._drawn_at >= DRAW_SECONDS:
            self._draw()

    def text(self) -> str:
        """Return the line."""
        share = self._done / max(self._total, 1)
        parts = [f"{self._done:,} of {self._total:,}", f"{share:.0%}", f"{self._failed:,} failed"]
        if rate := self._rate():
            parts += [f"{rate:.3g}/s", f"{_clock((self._total - self._done) / rate)} left"]
        cells = round(share * CELLS)
        return f"Sending [{'#' * cells}{'-' * (CELLS - cells)}] {', '.join(parts)}"

    def _rate(self) -> float:
        """Return the rows a second of the last seconds."""
        now = self._now()
        self._marks.append((now, self._done))
        while len(self._marks) > 2 and self._marks[1][0] <= now - WINDOW_SECONDS:  # noqa: PLR2004 - the newest and an older one
            del self._marks[0]
        since, before = self._marks[0]
        return (self._done - before) / (now - since) if now > since else 0.0

    def _draw(self) -> None:
        self._drawn_at = self._now()
        columns = shutil.get_terminal_size().columns
        self._write(output.CLEAR_LINE + self.text()[: columns - 1])

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:
            output.discard_unwritten()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The options of the command line: sizes and counts."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - msgspec needs the types of a struct's fields

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The full size by default; `scale` is a factor for all counts."""

    runs: int = 3
    scale: float = 1.0
    callers: int = 64
    groups: tuple[int, ...] = (100, 1_000, 20_000, 100_000)
    duration: float = 600.0
    records: int = 1_000_000
    code: Path | None = None  # the directory that holds relay, tracker and shared; None: the installed ones
    program: Path | None = None  # the one executable that is measured as relay and as tracker; None: ours
    alone: bool = False  # without limits and naive baselines

    def count(self, full: int, *, least: int = 20) -> int:
        """Return a count at the chosen scale."""
        return max(min(least, full), round(full * self.scale))

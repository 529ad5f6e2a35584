# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A claim, what makes it true, and what came."""

from __future__ import annotations

from typing import NamedTuple

SHOWN = 160
BEFORE_THE_DIFFERENCE = 40


class Check(NamedTuple):
    """Holds where what came is what was expected."""

    claim: str
    expected: object
    came: object

    @property
    def holds(self) -> bool:
        """Whether the claim is true."""
        return self.expected == self.came

    @property
    def difference(self) -> tuple[str, str]:
        """What was expected and what came, of long ones the part around the first difference."""
        expected, came = repr(self.expected), repr(self.came)
        start = max(0, _common(expected, came) - BEFORE_THE_DIFFERENCE)
        return _part(expected, start), _part(came, start)


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _part(text: str, start: int) -> str:
    if len(text) <= SHOWN:
        return text
    before = "…" if start else ""
    after = "…" if len(text) > start + SHOWN else ""
    return f"{before}{text[start : start + SHOWN]}{after}"

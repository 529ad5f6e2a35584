# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A claim with its expected and its actual value."""

from __future__ import annotations

from typing import NamedTuple

SHOWN = 160
BEFORE_THE_DIFFERENCE = 40


class Check(NamedTuple):
    """Holds if the actual value is the expected one."""

    claim: str
    expected: object
    actual: object

    @property
    def holds(self) -> bool:
        """Whether the claim is true."""
        return self.expected == self.actual

    @property
    def difference(self) -> tuple[str, str]:
        """The expected and the actual value; of long ones the part around the first difference."""
        expected, actual = repr(self.expected), repr(self.actual)
        start = max(0, _common(expected, actual) - BEFORE_THE_DIFFERENCE)
        return _part(expected, start), _part(actual, start)


def _common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _part(text: str, start: int) -> str:
    if len(text) <= SHOWN:
        return text
    before = "…" if start else ""
    after = "…" if len(text) > start + SHOWN else ""
    return f"{before}{text[start : start + SHOWN]}{after}"

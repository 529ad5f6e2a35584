# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pauses double from the first to the longest one, with jitter of at most half of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracker.events import receiver, settlement

if TYPE_CHECKING:
    from tracker.events.backoff import Backoff


@pytest.mark.parametrize(
    ("backoff", "pauses"),
    [
        (receiver.BACKOFF, [1, 2, 4, 8, 16, 30, 30]),
        (settlement.BACKOFF, [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]),
    ],
)
def test_pauses_double_up_to_the_longest(backoff: Backoff, pauses: list[float]) -> None:
    for tries, pause in enumerate(pauses, 1):
        assert pause <= backoff.seconds(tries) <= pause + pauses[0] / 2


def test_a_very_long_outage_keeps_the_longest_pause() -> None:
    assert 5 <= settlement.BACKOFF.seconds(100_000) <= 5.1


def test_two_pauses_differ() -> None:
    assert len({receiver.BACKOFF.seconds(1) for _ in range(20)}) > 1

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The bar shows the rows that are done and failed, the rate and the time left, and clears its line at the end."""

from __future__ import annotations

import io

from relay.commands.mailing.progress import Bar


def test_the_line_has_done_failed_rate_and_time_left_and_is_cleared() -> None:
    screen, now = io.StringIO(), [0.0]
    with Bar(2000, screen, lambda: now[0]) as bar:
        assert bar.text() == "Sending [--------------------] 0 of 2,000, 0%, 0 failed"
        for number in range(500):
            now[0] += 0.1
            bar.add(failed=number < 3)
        assert bar.text() == "Sending [#####---------------] 500 of 2,000, 25%, 3 failed, 10/s, 2:30 left"
    assert screen.getvalue().endswith("left\r\x1b[K")
    assert max(map(len, screen.getvalue().split("\r\x1b[K"))) < 80


def test_it_is_drawn_at_most_ten_times_a_second() -> None:
    screen = io.StringIO()
    with Bar(1000, screen, lambda: 5.0) as bar:
        for _ in range(1000):
            bar.add(failed=False)
    assert screen.getvalue().count("Sending") == 1

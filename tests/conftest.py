# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A time limit for each test with its fixtures: one that hangs fails, and the others run."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

LIMIT_SECONDS = 240.0  # the longest test needs 10; the machine may be very busy
REPEAT_SECONDS = 10.0  # what hangs may have caught the first error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Raise an error where the main thread is when the time is over."""

    def fail(*_: object) -> None:
        pytest.fail(f"{item.nodeid} has not ended after {LIMIT_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS, REPEAT_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

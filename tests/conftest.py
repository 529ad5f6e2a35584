# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The order of the tests, and a time limit for each with its fixtures: one that hangs fails, and the others run."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

LIMIT_SECONDS = 240.0  # the longest test needs 20; the machine may be very busy
REPEAT_SECONDS = 10.0  # what hangs may have caught the first error

# Tests of 2 to 30 s, the longest first: a worker that gets one at the end is waited for.
FIRST = (
    "tests/faults/",
    "tests/test_packaging.py",
    "tests/chaos/",
    "tests/acceptance/test_cluster.py",
    "tests/acceptance/test_send_rate.py",
    "tests/relay/test_sent_once.py",
    "tests/charts/test_alerts.py",
    "tests/shared/nats/test_client_tls_first.py",
    "tests/bench/",
    "tests/acceptance/test_log_output.py",
    "tests/acceptance/",
    "tests/test_demo.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first."""
    items.sort(
        key=lambda item: next((place for place, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST))
    )


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

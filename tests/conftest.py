# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The order of the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

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

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The settings of all property tests, and the order in which the workers of pytest-xdist run all tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

from tests.stack import order

if TYPE_CHECKING:
    import pytest

# On a busy machine an example may take any time.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with its part of the longest files."""
    items[:] = order.by_worker(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))

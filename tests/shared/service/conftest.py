# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The event loops of the tests: the processes run on uvloop, where it exists."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the probes on both loops, which differ in what a closed socket does; the others on that of asyncio."""
    uv = {"uvloop": uvloop.new_event_loop} if item.path.name == "test_probes.py" else {}
    return {"asyncio": asyncio.new_event_loop} | uv

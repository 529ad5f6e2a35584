# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Empty buckets, and an operator who runs the commands on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nats as nats_py
import pytest

from tests.acceptance.buckets import Buckets
from tests.tracker.commands.operators import Operator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stack.nats_server import NatsServer


@pytest.fixture
async def buckets(nats: NatsServer) -> AsyncIterator[Buckets]:
    """Both buckets, empty."""
    async with await nats_py.connect(nats.url) as client:
        made = Buckets(client)
        await made.create()
        yield made


@pytest.fixture
def operator(nats: NatsServer, buckets: Buckets) -> Operator:
    """An operator who is connected to the server."""
    assert buckets
    return Operator(nats.url)

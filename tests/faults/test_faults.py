# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A short run of `make faults`: each promise holds after faults of single messages."""

from __future__ import annotations

from tests.faults import experiment

SEED = 1
SECONDS = 10.0
PAUSE_SECONDS = 0.3  # the number of messages, and so of faults, is about the same on a fast machine


async def test_every_promise_holds_after_faults_of_single_messages() -> None:
    result = await experiment.run(SEED, SECONDS, pause=PAUSE_SECONDS)
    assert result.problems == []
    assert result.acknowledged > 50
    assert len(result.faults) > 20

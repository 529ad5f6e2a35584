# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A short run of `make chaos`: what was acknowledged survives kills of nodes and processes."""

from __future__ import annotations

import pytest

from tests.chaos import experiment, push_events
from tests.system import callers

SEED = 4
SECONDS = 5.0
CALLER_PAUSE_SECONDS = 0.3
RESTARTS = 3
EVENTS = 300
KILLS = 5


@pytest.fixture(autouse=True)
def slow_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave processor time for the other tests."""
    monkeypatch.setattr(experiment, "CALLER_PAUSE_SECONDS", CALLER_PAUSE_SECONDS)


async def test_acknowledged_emails_survive_kills_of_nodes_relays_and_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "LAST_SECONDS", 3.0)  # what is not acknowledged by then is not checked
    monkeypatch.setitem(
        experiment.TRACKER, "ENGAGEMENT_RECORD_WAIT_SECONDS", "20"
    )  # of emails that are not acknowledged
    result = await experiment.with_keys(SEED, SECONDS, print)
    assert result.problems == []


async def test_no_caller_sees_an_error_while_processes_are_replaced() -> None:
    result = await experiment.roll_out(RESTARTS, print)
    assert result.problems == []
    assert result.restarts >= RESTARTS


async def test_each_push_event_is_in_the_stream_once_though_trackers_are_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`make chaos ARGS=push-events` does it with 10,000 events and a cluster."""
    monkeypatch.setattr(push_events, "PAUSE_SECONDS", (0.2, 0.6))
    monkeypatch.setattr(push_events, "AWAY_SECONDS", 0.7)
    result = await push_events.run(SEED, EVENTS, KILLS, print, nodes=1)
    assert result.problems == []
    assert result.acknowledged == EVENTS
    assert result.restarts > 1

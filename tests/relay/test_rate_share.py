# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The shares of all relays never exceed the rate, and a free share is used soon."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.rate_share import MARGIN_SECONDS
from tests.relay.relays import HOLD_SECONDS, RATE, RECONNECT_SECONDS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.relay.relays import Relay

RECOVERY_SECONDS = 2 * (HOLD_SECONDS + MARGIN_SECONDS) + 5
LONG_CUT_SECONDS = 4
FAULTS = ("start", "kill", "leave", "paused", "cut", "frozen", "server")

Step = tuple[str, int, float, float]
steps = st.lists(
    st.tuples(st.sampled_from(FAULTS), st.integers(0, 4), st.floats(0.01, 14), st.floats(0, 4)), max_size=12
)


def never_too_fast(world: World) -> None:
    total = sum(relay.share for relay in world.relays.values())
    assert total <= RATE * 1.0001, (world.now, {relay.name[:4]: relay.share for relay in world.relays.values()})


def shares(world: World) -> list[float]:
    return sorted(round(relay.share, 6) for relay in world.alive)


def sharing(relays: int, seed: int = 0) -> World:
    """A world in which so many relays have settled."""
    world = World(
        Random(seed),  # noqa: S311 - not a secret
        never_too_fast,
    )
    for _ in range(relays):
        world.start()
    world.run(4)
    assert shares(world) == [pytest.approx(RATE / relays)] * relays
    return world


def act(world: World, step: Step) -> None:
    """Let one fault happen, and end it after `seconds`."""
    fault, number, seconds, _ = step
    if fault == "start":
        if len(world.alive) < 6:
            world.start()
        return
    if not world.alive:
        return
    relay = world.alive[number % len(world.alive)]
    if fault == "cut" and world.now - relay.cut_at < LONG_CUT_SECONDS:  # two cuts would be a long one
        return
    ends: dict[str, Callable[[], None]] = {
        "kill": relay.kill,
        "leave": relay.leave,
        "cut": relay.cut_link,
        "server": partial(world.stop_server, seconds),
    }
    if fault in ends:
        ends[fault]()
    else:
        setattr(relay, fault, True)
    if fault in {"paused", "frozen", "cut"}:
        world.after(min(seconds, RECONNECT_SECONDS) if fault == "cut" else seconds, relay.go_on)


@given(steps, st.integers(0, 1 << 30))
@settings(max_examples=40)
def test_no_schedule_of_faults_lets_the_relays_send_faster_together(schedule: list[Step], seed: int) -> None:
    world = World(
        Random(seed),  # noqa: S311 - not a secret
        never_too_fast,
    )
    world.start()
    world.start()
    world.run(3)
    for step in schedule:
        act(world, step)
        world.run(step[3])
    world.run(14)
    world.run(RECOVERY_SECONDS)
    count = max(len(world.alive), 1)
    assert shares(world) == [pytest.approx(RATE / count)] * len(world.alive)
    assert {relay.model.relays(world.now) for relay in world.alive} <= {count}


@pytest.mark.parametrize("relays", [1, 2, 5])
def test_a_relay_that_starts_gets_its_share_within_three_seconds(relays: int) -> None:
    world = sharing(relays)
    world.start()
    world.run(2)
    assert shares(world) == [pytest.approx(RATE / (relays + 1))] * (relays + 1)


def leave(relay: Relay) -> None:
    relay.leave()


def kill(relay: Relay) -> None:
    relay.kill()


@pytest.mark.parametrize(("end", "seconds"), [(leave, 0.2), (kill, 3)])
@pytest.mark.parametrize("relays", [2, 3, 6])
def test_the_share_of_a_relay_that_ends_is_used_by_the_others(
    end: Callable[[Relay], None], seconds: float, relays: int
) -> None:
    for seed in range(5):
        world = sharing(relays, seed)
        end(world.alive[0])
        world.run(seconds)
        assert shares(world) == [pytest.approx(RATE / (relays - 1))] * (relays - 1)


def test_without_nats_each_relay_keeps_its_last_share() -> None:
    world = sharing(3)
    for relay in world.alive:
        relay.cut_link()
    world.run(HOLD_SECONDS - 1)
    assert shares(world) == [RATE / 3] * 3
    for relay in world.alive:
        relay.go_on()
    world.run(1)
    assert shares(world) == [RATE / 3] * 3


@pytest.mark.parametrize("fault", ["paused", "frozen"])
def test_the_share_of_a_relay_that_may_only_be_cut_off_is_kept_for_it_until_its_requests_are_over(fault: str) -> None:
    world = sharing(3)
    cut_off = world.alive[0]
    setattr(cut_off, fault, True)
    world.run(HOLD_SECONDS - 1)
    assert [relay.share for relay in world.alive[1:]] == [RATE / 3] * 2
    world.run(MARGIN_SECONDS + 2)
    assert [relay.share for relay in world.alive] == [0, RATE / 2, RATE / 2]
    cut_off.go_on()
    world.run(3)
    assert shares(world) == [RATE / 3] * 3


def test_a_relay_that_starts_beside_one_that_is_cut_off_does_not_believe_that_it_is_alone() -> None:
    world = sharing(1)
    [cut_off] = world.alive
    cut_off.frozen = True
    started = world.start()
    world.run(HOLD_SECONDS - 1)
    assert (cut_off.share, started.share) == (RATE, 0)
    world.run(4)
    assert (cut_off.share, started.share) == (0, RATE)


def test_relays_that_were_configured_differently_use_the_lower_rate() -> None:
    world = sharing(1)
    world.start(rate=10)
    world.run(2)
    assert shares(world) == [5, 5]

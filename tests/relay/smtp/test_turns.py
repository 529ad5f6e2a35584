# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The order in which sends of several groups get their turns."""

from __future__ import annotations

from itertools import count, groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.smtp.turns import FIRST_TURNS_IN_A_ROW, Turns

PROPERTY = settings(max_examples=200)
GROUPS = st.sampled_from("abcd")
STEPS = st.lists(st.one_of(st.tuples(st.just("join"), GROUPS), st.just(("next", "")), st.just(("leave", ""))))


def drained(turns: Turns[str]) -> list[str]:
    """Every waiting send in the order of the turns."""
    return [waiter for waiter in iter(turns.next, None) if waiter]


def test_groups_go_by_turns_and_each_in_its_own_order() -> None:
    turns: Turns[str] = Turns()
    for waiter in ("a1", "a2", "a3", "b1", "b2", "c1"):
        turns.join(waiter[0], waiter)
    assert drained(turns) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_new_group_comes_before_thousands_that_had_a_turn() -> None:
    turns: Turns[str] = Turns()
    for number in range(10_000):
        turns.join(f"g{number}", f"g{number} 1")
        turns.join(f"g{number}", f"g{number} 2")
    while turns._new:  # noqa: SLF001
        turns.next()
    turns.join("single", "single")
    assert "single" in [turns.next() for _ in range(2)]


def test_new_groups_without_end_do_not_starve_a_group_that_had_a_turn() -> None:
    turns: Turns[str] = Turns()
    for number in range(10):
        turns.join("mailing", f"mailing {number}")
    served = []
    for number in range(10 * (FIRST_TURNS_IN_A_ROW + 1)):
        turns.join(f"single {number}", f"single {number}")
        turns.join(f"another {number}", f"another {number}")
        served.append(turns.next())
    assert sum(str(one).startswith("mailing") for one in served) >= 9


def test_a_group_of_one_caller_who_returns_at_once_gets_no_more_turns_than_a_group_of_many() -> None:
    turns: Turns[str] = Turns()
    for number in range(50):
        turns.join("many", f"many {number}")
    served = ["one"]
    for number in range(60):
        if served[-1] == "one":
            turns.join("one", f"one {number}")
        served.append(str(turns.next()).split()[0])
    assert max(len(list(run)) for _, run in groupby(served[3:])) == 1


def test_a_send_that_waits_again_comes_first_in_its_group_and_not_before_others() -> None:
    turns: Turns[str] = Turns()
    for waiter in ("a1", "a2", "b1"):
        turns.join(waiter[0], waiter)
    assert turns.next() == "a1"
    turns.join("a", "a1", again=True)
    assert drained(turns) == ["b1", "a1", "a2"]


def test_a_send_whose_turn_was_in_vain_comes_before_all() -> None:
    turns: Turns[str] = Turns()
    for waiter in ("a1", "b1", "a2", "c1"):
        turns.join(waiter[0], waiter)
    assert [turns.next(), turns.next()] == ["a1", "b1"]
    turns.join("b", "b1", again=True, in_vain=True)
    turns.join("a", "a1", again=True, in_vain=True)
    assert drained(turns) == ["a1", "b1", "c1", "a2"]


def test_a_send_that_does_not_suit_keeps_its_place() -> None:
    turns: Turns[str] = Turns()
    for waiter in ("a1", "a2", "b1"):
        turns.join(waiter[0], waiter)
    assert turns.next(lambda waiter: waiter != "a1") == "a2"
    assert turns.next(lambda _: False) is None
    assert drained(turns) == ["b1", "a1"]


@PROPERTY
@given(STEPS)
def test_every_send_leaves_or_has_one_turn_and_nothing_is_kept(steps: list[tuple[str, str]]) -> None:
    turns: Turns[str] = Turns()
    numbers = count()
    waiting: dict[str, list[str]] = {}
    for action, group in steps:
        lines = {name: line for name, line in waiting.items() if line}
        if action == "join":
            waiter = f"{group} {next(numbers)}"
            turns.join(group, waiter)
            waiting.setdefault(group, []).append(waiter)
        elif action == "next":
            served = turns.next()
            assert (served is None) == (not lines)
            if served:
                assert waiting[served[0]].pop(0) == served, "in the order of its group"
        elif lines:
            last, line = max(lines.items())
            turns.leave(last, line[-1])
            turns.leave(last, line.pop())  # twice is once
        assert len(turns) == sum(map(len, waiting.values()))
    assert len(drained(turns)) == sum(map(len, waiting.values()))
    assert not turns._new, "no group is kept"  # noqa: SLF001
    assert not turns._served, "no group is kept"  # noqa: SLF001


@PROPERTY
@given(st.lists(GROUPS, min_size=1))
def test_no_group_has_two_turns_more_than_another_that_waits(groups: list[str]) -> None:
    turns: Turns[str] = Turns()
    for number, group in enumerate(groups):
        turns.join(group, f"{group} {number}")
    served = [waiter[0] for waiter in drained(turns)]
    left = {group: groups.count(group) for group in set(groups)}
    had = dict.fromkeys(left, 0)
    for group in served:
        left[group] -= 1
        had[group] += 1
        assert all(had[group] <= had[other] + 1 for other in left if left[other])

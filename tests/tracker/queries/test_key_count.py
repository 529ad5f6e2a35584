# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The number of keys proves that none has left, and never if one has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.queries import key_count
from tracker.queries.key_count import KeyCount


def test_without_a_write_the_number_stays_the_same() -> None:
    count = KeyCount(10, 3)
    assert count.proves(10, 3)
    assert not count.proves(10, 2)


@pytest.mark.parametrize(
    ("previous", "is_known", "added"),
    [(0, False, 1), (0, True, 1), (7, False, 0), (10, False, 0), (11, False, 1), (11, True, 0), (None, False, 1)],
)
def test_a_write_that_may_have_added_a_key_is_expected_to_have_done_so(
    previous: int | None, *, is_known: bool, added: int
) -> None:
    count = KeyCount(10, 3)
    count.written("k", 12, previous, is_known=is_known)
    count.written("k", 13, 12, is_known=False)
    assert count.proves(13, 3 + added)


def test_a_write_after_the_checked_sequence_counts_at_the_next_check() -> None:
    count = KeyCount(10, 3)
    count.written("k", 11, 0, is_known=False)
    count.written("l", 12, 0, is_known=False)
    assert count.proves(11, 4)
    assert count.proves(10, 3)  # an earlier answer that was read later
    assert count.proves(12, 5)


def test_a_revision_that_was_overwritten_before_its_delivery_counts_at_its_own_sequence() -> None:
    count = KeyCount(10, 3)
    count.written("k", 13, 11, is_known=False)
    assert count.proves(12, 4)


def test_only_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_count, "MAX_SEEN", 1)
    count = KeyCount(10, 3)
    for sequence, key in enumerate("abab", 11):
        count.written(key, sequence, 0 if sequence < 13 else sequence - 2, is_known=sequence >= 13)
    assert count.proves(14, 5)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["write", "put", "leave"])), max_size=40), st.data()
)
def test_no_sequence_of_writes_hides_a_key_that_has_left(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """Keys are written with and without an expected revision, and leave; a check follows at random."""
    revisions = {"a": 1, "b": 2}
    count, sequence, left = KeyCount(2, 2), 2, set[str]()
    for key, step in steps:
        if step == "leave":
            left |= {key} & revisions.keys()
            revisions.pop(key, None)
        else:
            sequence += 1
            count.written(key, sequence, revisions.get(key, 0) if step == "write" else None, is_known=False)
            revisions[key] = sequence
            left.discard(key)
        if data.draw(st.booleans()):
            if count.proves(sequence, len(revisions)):
                assert not left
            else:
                count, left = KeyCount(sequence, len(revisions)), set()


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.data())
def test_writes_of_the_service_itself_are_always_proved(keys: list[str], data: st.DataObject) -> None:
    """The relay and the tracker write with an expected revision; some revisions are not delivered."""
    revisions: dict[str, int] = {}
    count = KeyCount(0, 0)
    for sequence, key in enumerate(keys, 1):
        count.written(key, sequence, revisions.get(key, 0), is_known=False)
        revisions[key] = sequence
        if data.draw(st.booleans()):
            assert count.proves(sequence, len(revisions))

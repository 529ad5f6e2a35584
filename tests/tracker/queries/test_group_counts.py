# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A group counts each email once, in its latest revision, or by its seal; with any repeats and in any order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contract import GetEmailEngagementAnalyticsResponse
from tracker.queries.counts import NOTHING, RecordCounts
from tracker.queries.group_counts import GroupCounts
from tracker.queries.seal import Leaving, Seal, Segment

PROPERTY = settings(max_examples=100)


def add(group: GroupCounts, *email_ids: str) -> list[str]:
    """Put the only segment, and return the ids that are new."""
    return group.put_segments({0: Segment(email_ids)}).new


def test_an_email_counts_as_sent_before_its_record_is_known() -> None:
    group = GroupCounts()
    assert add(group, "a", "b") == ["a", "b"]
    assert add(group, "a", "b", "c") == ["c"]
    assert group.response("g") == GetEmailEngagementAnalyticsResponse(
        group_id="g", total_sent=3, delivered=0, opened=0, unique_opened=0, failed=0
    )


def test_a_group_counts_every_open_and_every_email_that_was_opened() -> None:
    group = GroupCounts()
    add(group, "a", "b", "c")
    group.put("a", 1, RecordCounts(1, 5, 1, 0))
    group.put("b", 2, RecordCounts(1, 2, 1, 1))
    assert group.response("g") == GetEmailEngagementAnalyticsResponse(
        group_id="g", total_sent=3, delivered=2, opened=7, unique_opened=2, failed=1
    )


@pytest.mark.parametrize("again", [1, 3])
def test_a_revision_that_is_not_later_changes_nothing(again: int) -> None:
    group = GroupCounts()
    add(group, "a")
    group.put("a", 3, RecordCounts(1, 5, 1, 0))
    group.put("a", again, RecordCounts(0, 1, 1, 1))
    assert group.response("g").opened == 5
    assert group.response("g").failed == 0


def test_an_email_that_is_added_again_keeps_its_counts() -> None:
    group = GroupCounts()
    add(group, "a")
    group.put("a", 3, RecordCounts(1, 5, 1, 0))
    assert add(group, "a") == []
    group.put("a", 2, RecordCounts(0, 0, 0, 1))
    assert group.response("g").opened == 5


record_counts = st.builds(
    RecordCounts,
    delivered=st.integers(0, 1),
    opened=st.integers(0, 9),
    unique_opened=st.integers(0, 1),
    failed=st.integers(0, 1),
)
histories = st.dictionaries(st.sampled_from("abcd"), st.lists(record_counts, max_size=4), min_size=1)


@PROPERTY
@given(histories, st.data())
def test_any_order_and_any_repeats_end_in_the_counts_of_the_latest_revisions(
    history: dict[str, list[RecordCounts]], data: st.DataObject
) -> None:
    """The writes are the revisions of each email, in any order."""
    writes = [
        (one, revision, counted) for one, revisions in history.items() for revision, counted in enumerate(revisions, 1)
    ]
    repeats = data.draw(st.lists(st.sampled_from(writes), max_size=4)) if writes else []
    group = GroupCounts()
    add(group, *history)
    for email_id, revision, counted in data.draw(st.permutations(writes + repeats)):
        group.put(email_id, revision, counted)
    latest = [revisions[-1] for revisions in history.values() if revisions]
    delivered, opened, unique_opened, failed = (sum(column) for column in zip(NOTHING, *latest, strict=True))
    assert group.response("g") == GetEmailEngagementAnalyticsResponse(
        group_id="g",
        total_sent=len(history),
        delivered=delivered,
        opened=opened,
        unique_opened=unique_opened,
        failed=failed,
    )


def test_sealed_and_leaving_emails_are_counted() -> None:
    group = GroupCounts()
    seal = Seal(total_sent=2, delivered=1, opened=4, leaving={"a": Leaving(7, 1, 3, 1, 0)})
    assert group.put_segments({0: Segment(("b",), seal)}).new == ["b", "a"]
    group.put("b", 1, RecordCounts(1, 1, 1, 1))
    assert group.response("g") == GetEmailEngagementAnalyticsResponse(
        group_id="g", total_sent=4, delivered=3, opened=8, unique_opened=2, failed=1
    )


def test_the_record_of_a_leaving_email_counts_as_long_as_it_is_there() -> None:
    group = GroupCounts()
    group.put_segments({0: Segment((), Seal(leaving={"a": Leaving(7, 0, 1, 1, 0)}))})
    group.put("a", 8, RecordCounts(0, 2, 1, 0))
    assert group.response("g").opened == 2
    group.put("a", 9, None)
    assert group.response("g").opened == 1
    assert group.is_leaving("a", 7)
    assert not group.is_leaving("a", 8)


@pytest.mark.parametrize("leave_first", [True, False])
def test_an_email_that_is_sealed_changes_no_count(leave_first: bool) -> None:  # noqa: FBT001 - a parameter of the test
    group = GroupCounts()
    add(group, "a", "b")
    group.put("a", 1, RecordCounts(1, 2, 1, 0))
    before = group.response("g")
    if leave_first:
        seal = Seal(leaving={"a": Leaving(1, 1, 2, 1, 0)})
        assert group.put_segments({0: Segment(("b",), seal)}) == ([], [])
        assert group.response("g") == before
    sealed = Seal(total_sent=1, delivered=1, opened=2, unique_opened=1)
    assert group.put_segments({0: Segment(("b",), sealed)}).removed == ["a"]
    assert group.response("g") == before
    assert list(group) == ["b"]


def test_an_id_that_leaves_one_of_two_segments_stays() -> None:
    group = GroupCounts()
    group.put_segments({0: Segment(("a", "b")), 1: Segment(("b", "c"))})
    assert group.put_segments({0: Segment(("a",))}).removed == []
    assert group.put_segments({1: Segment(("c",))}).removed == ["b"]
    assert group.response("g").total_sent == 2

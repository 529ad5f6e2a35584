# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Records become counts: each once, in its latest revision, with any repeats and in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contract import ClickEvent, Delay, Failure, GetEmailEngagementAnalyticsResponse, OpenEvent
from tests.tracker.examples import at, record, stored
from tracker.events import records
from tracker.queries import counts
from tracker.queries.counts import NOTHING, GroupCounts, RecordCounts

if TYPE_CHECKING:
    from shared.contract import EmailRecipientRecord

PROPERTY = settings(deadline=None, max_examples=200)
OPENS = tuple(OpenEvent(event_id=str(second), opened_at=at(second)) for second in range(3))
OF_GO = [{"event_id": str(number), "opened_at": "2026-01-02T03:04:05Z"} for number in range(3)]


@pytest.mark.parametrize(
    ("of", "counted"),
    [
        (record(), NOTHING),
        (record(delivered=True, delivered_at=at(1)), RecordCounts(1, 0, 0, 0)),
        (record(opened=True, open_count=1, opened_at_list=OPENS[:1], last_opened_at=at(0)), RecordCounts(0, 1, 1, 0)),
        (record(opened=True, open_count=9, opened_at_list=OPENS), RecordCounts(0, 9, 1, 0)),
        (record(opened=True, open_count=9), RecordCounts(0, 9, 1, 0)),
        (record(failed=True, failed_at=at(1), failure=Failure(kind="bounce")), RecordCounts(0, 0, 0, 1)),
        (record(failed=True, failed_at=at(1), failure=Failure(kind="reject")), RecordCounts(0, 0, 0, 1)),
        (record(failed=True, failed_at=at(1), complained_at=at(2)), RecordCounts(0, 0, 0, 1)),
        (record(delay=Delay(at=at(1))), NOTHING),
        (
            record(clicked=True, click_count=4, click_list=(ClickEvent(event_id="e", link="l", clicked_at=at(1)),)),
            NOTHING,
        ),
        (
            record(delivered=True, opened=True, open_count=2, opened_at_list=OPENS[:2], failed=True),
            RecordCounts(1, 2, 1, 1),
        ),
    ],
)
def test_a_record_is_counted_by_its_fields(of: EmailRecipientRecord, counted: RecordCounts) -> None:
    assert counts.of_record(records.encode(of)) == counted


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"delivered": True, "opened": True, "opened_at_list": OF_GO, "failed": False}, RecordCounts(1, 3, 1, 0)),
        ({"opened": True, "opened_at_list": OF_GO, "open_count": 2}, RecordCounts(0, 3, 1, 0)),
        ({"opened": True, "opened_at_list": OF_GO, "open_count": None}, RecordCounts(0, 3, 1, 0)),
        ({"delivered": True, "opened": False, "opened_at_list": None}, RecordCounts(1, 0, 0, 0)),
        ({"delivered": None, "opened": None, "failed": True, "failed_at": None}, RecordCounts(0, 0, 0, 1)),
        ({}, NOTHING),
    ],
)
def test_a_record_of_the_go_service_counts_the_same(fields: dict[str, object], counted: RecordCounts) -> None:
    assert counts.of_record(stored(**fields)) == counted


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"5",
        b"\xff",
        b"[" * 100_000,
        stored(delivered=True)[:-1],
        stored(delivered=True) + b"}",
        stored(delivered="yes", failed=True),
        stored(failed=True, open_count="3"),
        stored(failed=True, opened_at_list={}),
        stored(failed=True, opened_at_list=None, email_id=None),
    ],
    ids=range(13),
)
def test_a_missing_or_corrupt_record_counts_nothing(value: bytes | None) -> None:
    assert counts.of_record(value) == NOTHING


def test_an_email_counts_as_sent_before_its_record_is_known() -> None:
    group = GroupCounts()
    assert group.add(["a", "b"]) == ["a", "b"]
    assert group.add(["b", "c"]) == ["c"]
    assert group.response("g") == GetEmailEngagementAnalyticsResponse(
        group_id="g", total_sent=3, delivered=0, opened=0, unique_opened=0, failed=0
    )


def test_a_group_counts_every_open_and_every_email_that_was_opened() -> None:
    group = GroupCounts()
    group.add(["a", "b", "c"])
    group.put("a", 1, RecordCounts(1, 5, 1, 0))
    group.put("b", 2, RecordCounts(1, 2, 1, 1))
    assert group.response("g") == GetEmailEngagementAnalyticsResponse(
        group_id="g", total_sent=3, delivered=2, opened=7, unique_opened=2, failed=1
    )


@pytest.mark.parametrize("again", [1, 3])
def test_a_revision_that_is_not_later_changes_nothing(again: int) -> None:
    group = GroupCounts()
    group.add(["a"])
    group.put("a", 3, RecordCounts(1, 5, 1, 0))
    group.put("a", again, RecordCounts(0, 1, 1, 1))
    assert group.response("g").opened == 5
    assert group.response("g").failed == 0


def test_an_email_that_is_added_again_keeps_its_counts() -> None:
    group = GroupCounts()
    group.add(["a"])
    group.put("a", 3, RecordCounts(1, 5, 1, 0))
    assert group.add(["a"]) == []
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
    group.add(history)
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


@PROPERTY
@given(st.binary())
def test_random_bytes_count_nothing(value: bytes) -> None:
    assert counts.of_record(value) == NOTHING


@PROPERTY
@given(
    st.dictionaries(
        st.sampled_from(["delivered", "opened", "open_count", "opened_at_list", "failed"]),
        st.integers() | st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=3),
    )
)
def test_wrong_types_are_counted_without_an_error(fields: dict[str, object]) -> None:
    assert isinstance(counts.of_record(stored(**fields)), RecordCounts)

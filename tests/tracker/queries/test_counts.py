# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Records become counts, also those that are corrupt or of the Go service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contract import ClickEvent, Delay, Failure, OpenEvent
from tests.tracker.examples import at, record, stored
from tracker.events import records
from tracker.queries import counts
from tracker.queries.counts import NOTHING, RecordCounts

if TYPE_CHECKING:
    from shared.contract import EmailRecipientRecord

PROPERTY = settings(max_examples=100)
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

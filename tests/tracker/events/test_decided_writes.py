# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What reads and answers show about the writes of an email whose own answers are missing. No sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.kv.bucket import Entry
from tests.tracker.examples import EMAIL, event, record
from tracker.events import engagement, unanswered_writes
from tracker.events.unanswered_writes import Step, UnansweredWrites, Write

if TYPE_CHECKING:
    import pytest

A, B = event("open", 1, "a"), event("open", 2, "b")


def test_the_writes_of_the_oldest_email_are_forgotten_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered_writes, "MAX_EMAILS", 2)
    writes = UnansweredWrites()
    for email_id in ("e1", "e2", "e3"):
        writes.add(email_id, Write("w", 1, [Step(A, record(open_count=1))]))
    assert writes.email_ids == ["e2", "e3"]


def test_of_the_writes_of_an_email_that_were_cut_off_the_first_counts_as_stored() -> None:
    writes = UnansweredWrites()
    for number, one in ((10, B), (9, A)):
        writes.add(EMAIL, Write(f"w-{number}", 5, [Step(one, record(open_count=1))], is_cut_off=True))
    assert [step.event for step in writes.cut_off()] == [A]
    assert not writes


def test_a_write_on_a_revision_that_another_batch_has_replaced_is_not_remembered() -> None:
    writes = UnansweredWrites()
    for _ in range(2):
        writes.begin(EMAIL)
    writes.replaced(EMAIL, 5, "w-2")
    writes.end(EMAIL)
    writes.add(EMAIL, Write("w-1", 5, [Step(A, record(open_count=1))]))
    assert not writes
    writes.add(EMAIL, Write("w-1", 6, [Step(A, record(open_count=1))]))
    assert writes.email_ids == [EMAIL]


def test_what_was_seen_of_an_email_is_forgotten_with_its_last_update_and_write() -> None:
    writes = UnansweredWrites()
    step = Step(A, record(open_count=1))
    writes.begin(EMAIL)
    assert writes.decide(EMAIL, Entry(b"", 6, 5, "w-1"), record()) == []
    writes.add(EMAIL, Write("w-1", 5, [step]))
    writes.end(EMAIL)
    assert writes.decide(EMAIL, Entry(b"", 9, 8, "theirs"), record()) == [step], "it was seen"
    writes.add(EMAIL, Write("w-2", 8, [step]))
    assert writes.email_ids == [EMAIL], "nothing is known of revision 8 any more"


def test_after_several_other_writes_an_event_that_the_record_has_counts_as_stored() -> None:
    step = Step(A, record(opened=True, open_count=1))
    for stored, expected in ((record(), []), (engagement.apply(record(), A), [step])):
        writes = UnansweredWrites()
        writes.add(EMAIL, Write("ours", 1, [step]))
        assert writes.decide(EMAIL, Entry(b"", 5, 4, "theirs"), stored) == expected
        assert not writes

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A stored record is read or corrupt, and a record over the limit loses its oldest entries only."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from shared.contract import ClickEvent, Delay, EmailRecipientRecord, Failure, OpenEvent
from tests.tracker.examples import EMAIL, GROUP, TO, at, event, record, stored
from tracker.errors import RecordCorrupt, RecordFull
from tracker.events import engagement, records

if TYPE_CHECKING:
    from collections.abc import Sequence

PROPERTY = settings(max_examples=100)


def opens(*seconds: float) -> tuple[OpenEvent, ...]:
    return tuple(OpenEvent(event_id=f"open-{second}", opened_at=at(second)) for second in seconds)


def clicks(*seconds: float, link: str = "https://lfx.dev") -> tuple[ClickEvent, ...]:
    return tuple(ClickEvent(event_id=f"click-{second}", link=link, clicked_at=at(second)) for second in seconds)


def entries(of: EmailRecipientRecord) -> list[tuple[datetime, OpenEvent | ClickEvent]]:
    """All entries, the oldest first, opens before clicks of the same time."""
    both: list[tuple[datetime, OpenEvent | ClickEvent]] = [
        *((one.opened_at, one) for one in of.opened_at_list or ()),
        *((one.clicked_at, one) for one in of.click_list or ()),
    ]
    return sorted(both, key=lambda pair: pair[0])


def with_entries(
    whole: EmailRecipientRecord, kept: Sequence[tuple[datetime, OpenEvent | ClickEvent]]
) -> EmailRecipientRecord:
    return replace(
        whole,
        opened_at_list=tuple(one for _, one in kept if isinstance(one, OpenEvent)) or UNSET,
        click_list=tuple(one for _, one in kept if isinstance(one, ClickEvent)) or UNSET,
    )


OF_GO: dict[str, object] = {
    "delivered": True,
    "delivered_at": "2026-01-02T03:04:07.123456789Z",
    "opened": True,
    "open_count": 3,
    "opened_at_list": [
        {"event_id": "b", "opened_at": "2026-01-02T03:05:00Z"},
        {"event_id": "a", "opened_at": "2026-01-02T05:04:59.5+02:00"},
    ],
    "last_opened_at": "2026-01-02T03:05:00Z",
    "clicked": True,
    "click_count": 2,
    "click_event_ids": ["c", "d"],
    "last_clicked_at": "2026-01-01T22:06:00-05:00",
    "failed": True,
    "failed_at": None,
}


def test_a_record_of_the_go_service_is_read() -> None:
    assert records.decode(stored(**OF_GO)) == record(
        delivered=True,
        delivered_at=at(2) + timedelta(microseconds=123_457),
        opened=True,
        open_count=3,
        opened_at_list=(OpenEvent(event_id="b", opened_at=at(55)), OpenEvent(event_id="a", opened_at=at(54.5))),
        last_opened_at=at(55),
        clicked=True,
        click_count=2,
        click_event_ids=("c", "d"),
        last_clicked_at=at(115),
        failed=True,
    )


def test_the_record_of_the_specification_is_read() -> None:
    assert records.decode(stored(delivered=False, opened=False, failed=False)) == record()


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-02T03:04:05.000000001Z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05.999999999Z", "2026-01-02T03:04:06+00:00"),
        ("2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05.100000+00:00"),
        ("2026-01-02T03:04:05.060Z", "2026-01-02T03:04:05.060000+00:00"),
        ("2026-01-02T03:04:05.123456Z", "2026-01-02T03:04:05.123456+00:00"),
        ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T05:34:05+02:30", "2026-01-02T03:04:05+00:00"),
        ("2026-01-01T22:04:05.5-05:00", "2026-01-02T03:04:05.500000+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_a_time_of_the_go_service_is_the_right_instant_to_the_microsecond(text: str, instant: str) -> None:
    assert records.decode(stored(sent_at=text)).sent_at == datetime.fromisoformat(instant)


@pytest.mark.parametrize("name", ["delivered_at", "last_opened_at", "last_clicked_at", "failed_at", "complained_at"])
@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"])
def test_a_time_that_was_not_set_is_absent(name: str, text: str) -> None:
    before = stored(**{name: text})
    assert records.decode(before) == record()
    assert name not in json.loads(records.rewrite(before, records.decode(before), 10_000))


def test_a_delivery_replaces_a_time_that_was_not_set() -> None:
    known = records.decode(stored(delivered=True, delivered_at="0001-01-01T00:00:00Z"))
    assert engagement.apply(known, event("delivery", 1)).delivered_at == at(1)


OPTIONAL = ("delivered_at", "opened_at_list", "click_list", "click_event_ids", "failure", "complained_at", "delay")


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_means_that_a_field_is_absent(name: str) -> None:
    assert records.decode(stored(**{name: None})) == record()


@pytest.mark.parametrize(
    ("failure", "failed_at", "complained_at"),
    [
        ({"kind": "complaint"}, "2026-01-02T03:04:06Z", at(1)),
        ({"kind": "complaint"}, "0001-01-01T00:00:00Z", UNSET),
        ({"kind": "complaint"}, None, UNSET),
        ({"kind": "bounce"}, "2026-01-02T03:04:06Z", UNSET),
        (None, "2026-01-02T03:04:06Z", UNSET),
    ],
)
def test_a_complaint_that_was_stored_without_its_time_has_that_of_the_failure(
    failure: object, failed_at: object, complained_at: object
) -> None:
    found = records.decode(stored(failed=True, failed_at=failed_at, failure=failure))
    assert found.complained_at == complained_at
    kept = {"failed": True, "failed_at": failed_at, "failure": failure, "complained_at": "2026-01-02T03:04:09Z"}
    assert records.decode(stored(**kept)).complained_at == at(4)


@pytest.mark.parametrize("name", ["delivered", "opened", "open_count", "clicked", "click_count", "failed"])
def test_null_means_that_nothing_has_happened(name: str) -> None:
    assert records.decode(stored(**{name: None})) == record()


@pytest.mark.parametrize("name", ["opened_at_list", "click_list"])
def test_a_corrected_count_leaves_the_other_count_unchanged(name: str) -> None:
    entry = {"event_id": "a", "link": "l", "opened_at": "2026-01-02T03:04:05Z", "clicked_at": "2026-01-02T03:04:05Z"}
    others = {"open_count": 7} if name == "click_list" else {"click_count": 7}
    found = records.decode(stored(**{name: [entry]}, **others))
    assert {found.open_count, found.click_count} == {1, 7}


@pytest.mark.parametrize(("counted", "listed", "count"), [(None, 3, 3), (2, 3, 3), (9, 3, 9), (None, 0, 0)])
def test_a_count_is_never_less_than_the_length_of_its_list(counted: int | None, listed: int, count: int) -> None:
    fields: dict[str, Any] = {
        "opened_at_list": [{"event_id": str(one), "opened_at": "2026-01-02T03:04:05Z"} for one in range(listed)],
        "click_list": [
            {"event_id": str(one), "link": "l", "clicked_at": "2026-01-02T03:04:05Z"} for one in range(listed)
        ],
    }
    if counted is not None:
        fields |= {"open_count": counted, "click_count": counted}
    found = records.decode(stored(**fields))
    assert (found.open_count, found.click_count) == (count, count)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert records.decode(stored(labels={"a": "b"}, opened_by=["x"], delivered=True)) == record(delivered=True)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        stored()[:-1],
        stored() + b"x",
        stored()[:-1] + b',"x":' + b"[" * 100_000,
        stored()[:-1] + b',"failed":null,"x":' + b"[" * 100_000,
        stored()[:-1] + b',"open_count":' + b"9" * 5000 + b"}",
        stored()[:-1] + b',"failed":null,"x":' + b"9" * 5000 + b"}",
        stored()[:-1] + b',"failed":null,"x":1e999}',
        stored().replace(b"reader", b"\xff"),
        stored().replace(b"reader", rb"\ud800"),
        stored(email_id=None),
        stored(sent_at="yesterday"),
        stored(sent_at=None),
        stored(sent_at="2026-01-02T03:04:05"),
        stored(sent_at=1_767_323_045),
        stored(delivered="true"),
        stored(open_count="3"),
        stored(opened_at_list={}),
        stored(opened_at_list=[{"event_id": "a"}]),
        stored(opened_at_list=[{"event_id": "a", "opened_at": None}]),
        stored(click_event_ids=[1]),
        stored(click_list=[{"event_id": "a", "clicked_at": "2026-01-02T03:04:05Z"}]),
        stored(failure="bounce"),
    ],
    ids=range(28),
)
def test_a_value_that_is_not_a_record_is_corrupt(value: bytes) -> None:
    with pytest.raises(RecordCorrupt):
        records.decode(value)


def assert_is_read_or_corrupt(value: bytes) -> None:
    try:
        found = records.decode(value)
    except RecordCorrupt as corrupt:
        assert str(corrupt)  # noqa: PT017 - both are right
    else:
        assert records.decode(records.encode(found)) == found


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
names = st.sampled_from(EmailRecipientRecord.__struct_fields__)
times = st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat())


@PROPERTY
@given(st.one_of(st.binary(), st.text().map(str.encode), json_values.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_read_or_corrupt(value: bytes) -> None:
    assert_is_read_or_corrupt(value)


@PROPERTY
@given(st.dictionaries(names, st.one_of(json_values, times), max_size=4))
@example({"sent_at": "0001-01-01T00:00:00+14:00"})
@example({"open_count": 2**64})
@example({"click_count": -(2**70)})
def test_the_right_names_with_wrong_values_are_read_or_corrupt(fields: dict[str, Any]) -> None:
    assert_is_read_or_corrupt(stored(**fields))


@PROPERTY
@given(st.integers(0), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_record_is_read_or_corrupt(where: int, put: bytes, lost: int) -> None:
    value = stored(**OF_GO)
    where %= len(value)
    assert_is_read_or_corrupt(value[:where] + put + value[where + lost :])


def test_a_new_record_is_written_with_booleans_and_counts_only() -> None:
    assert json.loads(records.encode(record())) == {
        "email_id": EMAIL,
        "group_id": GROUP,
        "to": TO,
        "subject": "Your meeting",
        "sent_at": "2026-01-02T03:04:05Z",
        "delivered": False,
        "opened": False,
        "open_count": 0,
        "clicked": False,
        "click_count": 0,
        "failed": False,
    }


def test_times_are_written_with_z() -> None:
    written = json.loads(
        records.encode(
            record(
                delivered=True,
                delivered_at=at(1.5),
                opened_at_list=opens(2),
                click_list=clicks(3),
                failed_at=at(4),
                failure=Failure(kind="bounce", sub_type="General"),
                complained_at=at(5),
                delay=Delay(type="MailboxFull", at=at(6), until=at(7.5)),
            )
        )
    )
    assert written["delivered_at"] == "2026-01-02T03:04:06.500000Z"
    assert written["opened_at_list"] == [{"event_id": "open-2", "opened_at": "2026-01-02T03:04:07Z"}]
    assert written["click_list"] == [
        {"event_id": "click-3", "link": "https://lfx.dev", "clicked_at": "2026-01-02T03:04:08Z"}
    ]
    assert written["failed_at"] == "2026-01-02T03:04:09Z"
    assert written["failure"] == {"kind": "bounce", "sub_type": "General"}
    assert written["complained_at"] == "2026-01-02T03:04:10Z"
    assert written["delay"] == {
        "type": "MailboxFull",
        "at": "2026-01-02T03:04:11Z",
        "until": "2026-01-02T03:04:12.500000Z",
    }


def test_a_record_that_fits_is_written_whole() -> None:
    whole = record(opened_at_list=opens(1, 2, 3), click_list=clicks(1, 2, 3), click_event_ids=("a",))
    value = records.encode(whole)
    assert records.fit(whole, len(value)) == value


@pytest.mark.parametrize("gone", range(7))
def test_the_oldest_entries_go_first_opens_and_clicks_alike(gone: int) -> None:
    whole = record(open_count=50, click_count=60, opened_at_list=opens(1, 3, 4), click_list=clicks(2, 4, 6))
    oldest_first = entries(whole)
    assert [type(one) for _, one in oldest_first[3:5]] == [OpenEvent, ClickEvent]
    steps = [with_entries(whole, oldest_first[drop:]) for drop in range(7)]
    sizes = [len(records.encode(step)) for step in steps]
    assert records.fit(whole, sizes[gone]) == records.encode(steps[gone])
    if gone:
        assert records.fit(whole, sizes[gone - 1] - 1) == records.encode(steps[gone])


def test_no_more_long_entries_go_after_a_short_one_than_needed() -> None:
    links = [1] + [2000] * 5
    listed = tuple(clicks(second, link="x" * size)[0] for second, size in enumerate(links))
    whole = record(click_count=6, click_list=listed)
    found = records.decode(records.fit(whole, len(records.encode(whole)) - 1000))
    assert found.click_list == listed[2:]


@pytest.mark.parametrize("gone", range(8))
def test_after_the_lists_the_other_fields_go_in_order(gone: int) -> None:
    failure = Failure(kind="bounce", type="Permanent", sub_type="General", diagnostic="smtp; 550")
    whole = record(
        opened_at_list=opens(1),
        click_list=clicks(2),
        click_event_ids=("a", "b"),
        failed=True,
        failed_at=at(1),
        failure=failure,
        complained_at=at(2),
        delay=Delay(type="MailboxFull", at=at(1), diagnostic="smtp; 452"),
    )
    steps = [
        whole,
        without_opens := replace(whole, opened_at_list=UNSET),
        without_clicks := replace(without_opens, click_list=UNSET),
        without_ids := replace(without_clicks, click_event_ids=UNSET),
        short_delay := replace(without_ids, delay=Delay(type="MailboxFull", at=at(1))),
        short_failure := replace(short_delay, failure=replace(failure, diagnostic=UNSET)),
        without_delay := replace(short_failure, delay=UNSET),
        replace(without_delay, failure=Failure(kind="bounce")),
    ]
    sizes = [len(records.encode(step)) for step in steps]
    assert records.fit(whole, sizes[gone]) == records.encode(steps[gone])
    if gone:
        assert records.fit(whole, sizes[gone - 1] - 1) == records.encode(steps[gone])


@pytest.mark.parametrize("limit", [0, -1, -300, 10, 100])
def test_a_record_that_is_too_long_without_its_lists_is_full(limit: int) -> None:
    with pytest.raises(RecordFull):
        records.fit(record(opened_at_list=opens(1, 2), failure=Failure(kind="bounce", type="x")), limit)


lengths = st.one_of(st.integers(0, 20), st.integers(0, 400))
ages = st.lists(st.integers(0, 30), max_size=25).map(sorted)


@st.composite
def full_records(draw: st.DrawFn) -> EmailRecipientRecord:
    opened, clicked = draw(ages), draw(ages)
    kept = {
        "opened_at_list": tuple(OpenEvent(event_id="o" * draw(lengths), opened_at=at(age)) for age in opened) or UNSET,
        "click_list": tuple(ClickEvent(event_id="c", link="é" * draw(lengths), clicked_at=at(age)) for age in clicked)
        or UNSET,
        "click_event_ids": tuple(draw(st.lists(st.text(max_size=5), max_size=3))) or UNSET,
    }
    texts = st.one_of(st.just(UNSET), st.text(min_size=1, max_size=20))
    failure = draw(
        st.one_of(st.just(UNSET), st.builds(Failure, kind=st.just("b"), type=texts, sub_type=texts, diagnostic=texts))
    )
    delay = draw(st.just(UNSET) | st.builds(Delay, type=texts, at=st.just(at(1)), diagnostic=texts))
    counts = {"open_count": len(opened) + draw(st.integers(0, 10**6)), "click_count": len(clicked)}
    return record(failure=failure, delay=delay, **counts, **kept)


def bare(whole: EmailRecipientRecord) -> EmailRecipientRecord:
    failure = Failure(kind=whole.failure.kind) if whole.failure else UNSET
    lists = dict.fromkeys(("opened_at_list", "click_list", "click_event_ids"), UNSET)
    return replace(whole, failure=failure, delay=UNSET, **lists)


@PROPERTY
@given(full_records(), st.integers(-100, 6000))
def test_a_record_never_exceeds_the_limit_and_is_full_only_without_its_optional_fields(
    whole: EmailRecipientRecord, limit: int
) -> None:
    try:
        value = records.fit(whole, limit)
    except RecordFull:
        assert len(records.encode(bare(whole))) > limit
    else:
        assert len(value) <= limit
        assert bare(records.decode(value)) == bare(whole)


@PROPERTY
@given(full_records(), st.floats(0, 1))
def test_no_more_entries_go_than_needed(whole: EmailRecipientRecord, part: float) -> None:
    everything = entries(whole)
    smallest, largest = (len(records.encode(with_entries(whole, kept))) for kept in ([], everything))
    limit = smallest + int(part * (largest - smallest))
    found = entries(records.decode(records.fit(whole, limit)))
    assert found == everything[len(everything) - len(found) :]
    if len(found) < len(everything):
        one_more = everything[len(everything) - len(found) - 1 :]
        assert len(records.encode(with_entries(whole, one_more))) > limit


def test_a_written_time_is_in_utc() -> None:
    assert records.decode(records.encode(record(delivered_at=at(1)))).delivered_at == at(1)
    assert at(1).tzinfo is UTC


@pytest.mark.parametrize(
    "unknown", [b'"labels":{"a":"b"}', rb'"x":[1.50,null,"\u00e9"]', b'"x":1e400', b'"":null', b'"Failed":true']
)
def test_a_rewrite_keeps_fields_of_a_later_version_unchanged(unknown: bytes) -> None:
    before = stored()[:-1] + b"," + unknown + b"}"
    value = records.rewrite(before, record(delivered=True), 10_000)
    assert unknown in value
    assert records.decode(value) == record(delivered=True)


def test_fields_of_a_later_version_count_against_the_limit() -> None:
    whole = record(open_count=3, opened_at_list=opens(1, 2, 3))
    before = stored(labels="x" * 500)
    value = records.rewrite(before, whole, 10_000)
    length = len(value)
    assert records.rewrite(before, whole, length + 1) == value
    shorter = records.rewrite(before, whole, length - 1)
    assert len(shorter) < length
    assert records.decode(shorter) == replace(whole, opened_at_list=opens(2, 3))
    with pytest.raises(RecordFull):
        records.rewrite(before, whole, 600)


def test_a_rewrite_replaces_nulls_and_known_fields() -> None:
    before = stored(delivered_at=None, failed_at=None, open_count=7)
    assert records.rewrite(before, record(), 10_000) == records.encode(record())


@PROPERTY
@given(st.dictionaries(st.one_of(names, st.text(max_size=5)), json_values, max_size=4))
def test_any_record_that_can_be_read_can_be_rewritten(fields: dict[str, Any]) -> None:
    before = stored(**fields)
    try:
        found = records.decode(before)
    except RecordCorrupt:
        return
    value = records.rewrite(before, found, 100_000)
    assert records.decode(value) == found
    assert records.rewrite(value, found, 100_000) == value

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Events change a record in the same way in any order and with any repeats, and never undo a change."""

from __future__ import annotations

import json
from functools import reduce
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from shared.contract import ClickEvent, Delay, EmailRecipientRecord, Failure, OpenEvent
from tests.tracker import examples
from tests.tracker.examples import at, event, record, stored
from tracker.events import engagement, records, ses_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker.events.ses_event import EngagementEvent

PROPERTY = settings(max_examples=100)


def after(start: EmailRecipientRecord, events: Sequence[EngagementEvent]) -> EmailRecipientRecord:
    return reduce(engagement.apply, events, start)


def stamp(seconds: float) -> str:
    return at(seconds).isoformat().replace("+00:00", "Z")


# Small pools, so that ids, times and reasons repeat.
ids = st.sampled_from("abcd")
seconds = st.integers(0, 4)
words = st.sampled_from(["", "Permanent", "Transient"]).map(lambda word: word or UNSET)
failures = st.builds(Failure, kind=st.just(""), type=words, sub_type=words, diagnostic=words)


@st.composite
def one_event(draw: st.DrawFn) -> EngagementEvent:
    kind: Any = draw(st.sampled_from(sorted(ses_event.KINDS)))
    changes: dict[str, object] = {}
    if kind == "click":
        changes["link"] = draw(st.sampled_from(["https://lfx.dev/a", "https://lfx.dev/b"]))
    if kind in examples.FAILURES:
        why = draw(failures)
        changes["failure"] = Failure(kind=kind, type=why.type, sub_type=why.sub_type, diagnostic=why.diagnostic)
    second = draw(seconds)
    if kind == "delay":
        until = draw(st.just(UNSET) | seconds.map(at))
        changes["delay"] = Delay(at=at(second), type=draw(words), until=until, diagnostic=draw(words))
    return event(kind, second, draw(ids), **changes)


@st.composite
def fields_of_go(draw: st.DrawFn) -> dict[str, object]:
    """A record of the Go service: lists in order of arrival, ids of clicks, failures without a reason."""
    fields: dict[str, object] = {}
    times = seconds.map(stamp) | seconds.map(lambda second: f"{at(second):%Y-%m-%dT%H:%M:%S}.123456789Z")
    if draw(st.booleans()):
        fields |= {"delivered": True, "delivered_at": draw(times)}
    if opens := draw(st.lists(ids, unique=True)):
        entries = [{"event_id": one, "opened_at": draw(times)} for one in opens]
        fields |= {"opened": True, "opened_at_list": entries, "last_opened_at": draw(times)}
        counted = draw(st.sampled_from([None, 0, 3]))
        if counted is not None:
            fields["open_count"] = len(opens) + counted
    if clicks := draw(st.lists(ids, unique=True)):
        fields |= {
            "clicked": True,
            "click_count": len(clicks),
            "click_event_ids": clicks,
            "last_clicked_at": draw(times),
        }
        listed = draw(st.lists(st.sampled_from(clicks), unique=True))
        fields["click_list"] = [{"event_id": one, "link": "x", "clicked_at": draw(times)} for one in listed]
    if draw(st.booleans()):
        fields["failed"] = True
        if draw(st.booleans()):
            fields["failed_at"] = draw(times)
    return fields


@st.composite
def fields_of_before(draw: st.DrawFn) -> dict[str, object]:
    """A failed record that was written before complaints had a time of their own."""
    failure = {"kind": draw(st.sampled_from(["bounce", "complaint"]))}
    return {"failed": True, "failed_at": draw(seconds.map(stamp)), "failure": failure}


older = st.one_of(fields_of_go(), fields_of_before()).map(lambda fields: records.decode(stored(**fields)))
starts = st.one_of(st.just(record()), older)
some_events = st.lists(one_event(), max_size=7)


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[EngagementEvent], list[EngagementEvent]]:
    """The same events twice, in other orders and with other repeats."""
    events = draw(some_events)
    if not events:
        return [], []
    repeats = st.lists(st.sampled_from(events), max_size=4)
    return draw(st.permutations(events + draw(repeats))), draw(st.permutations(events + draw(repeats)))


@settings(PROPERTY, max_examples=150)
@given(starts, two_orders())
@example(
    records.decode(
        stored(
            opened_at_list=[
                {"event_id": "x", "opened_at": stamp(5)},
                {"event_id": "y", "opened_at": stamp(1)},
            ],
            open_count=2,
        )
    ),
    (
        [event("open", 3, "a"), event("open", 0, "b")],
        [event("open", 0, "b"), event("open", 3, "a")],
    ),
)
def test_any_order_and_any_repeats_end_in_the_same_bytes(
    start: EmailRecipientRecord, orders: tuple[list[EngagementEvent], list[EngagementEvent]]
) -> None:
    one, other = (records.encode(after(start, events)) for events in orders)
    assert one == other


@PROPERTY
@given(starts, some_events, one_event())
def test_an_event_that_changes_nothing_returns_the_same_object(
    start: EmailRecipientRecord, events: list[EngagementEvent], repeated: EngagementEvent
) -> None:
    known = after(start, [*events, repeated, *events])
    for one in (*events, repeated):
        assert engagement.apply(known, one) is known


@PROPERTY
@given(starts, some_events)
def test_no_event_undoes_an_earlier_one(start: EmailRecipientRecord, events: list[EngagementEvent]) -> None:
    known = start
    for one in events:
        changed = engagement.apply(known, one)
        assert changed.delivered >= known.delivered
        assert changed.failed >= known.failed
        assert changed.opened >= known.opened
        assert changed.clicked >= known.clicked
        assert changed.open_count >= known.open_count
        assert changed.click_count >= known.click_count
        assert not known.delivered_at or changed.delivered_at
        assert not known.failed_at or changed.failed_at
        assert not known.complained_at or changed.complained_at
        assert not known.delay or (changed.delay and changed.delay.at >= known.delay.at)
        known = changed


@PROPERTY
@given(starts, some_events)
def test_the_fields_of_the_relay_never_change(start: EmailRecipientRecord, events: list[EngagementEvent]) -> None:
    changed = after(start, events)
    for field in ("email_id", "group_id", "to", "subject", "sent_at"):
        assert getattr(changed, field) == getattr(start, field)


@PROPERTY
@given(starts, some_events)
def test_an_added_entry_leaves_the_list_sorted_with_each_id_once(
    start: EmailRecipientRecord, events: list[EngagementEvent]
) -> None:
    changed = after(start, events)
    opens, clicks = changed.opened_at_list or (), changed.click_list or ()
    assert len({entry.event_id for entry in opens}) == len(opens)
    assert len({entry.event_id for entry in clicks}) == len(clicks)
    if changed.opened_at_list != start.opened_at_list:
        assert [entry.opened_at for entry in opens] == sorted(entry.opened_at for entry in opens)
    if changed.click_list != start.click_list:
        assert [entry.clicked_at for entry in clicks] == sorted(entry.clicked_at for entry in clicks)


@PROPERTY
@given(some_events)
def test_a_new_record_ends_as_the_rules_for_the_set_of_events_demand(events: list[EngagementEvent]) -> None:
    """The rules once more, for the set of events instead of one by one."""
    of = {kind: [one for one in events if one.kind == kind] for kind in ses_event.KINDS}
    failed = [*of["bounce"], *of["complaint"], *of["reject"]]
    opens: dict[str, Any] = {}
    clicks: dict[str, Any] = {}
    for one in of["open"]:
        opens[one.event_id] = min(opens.get(one.event_id, one.at), one.at)
    for one in of["click"]:
        clicks[one.event_id] = min(clicks.get(one.event_id, (one.at, one.link)), (one.at, one.link))
    expected = record(
        delivered=bool(of["delivery"]),
        delivered_at=min((one.at for one in of["delivery"]), default=UNSET),
        opened=bool(opens),
        open_count=len(opens),
        opened_at_list=tuple(
            OpenEvent(event_id=one, opened_at=when) for when, one in sorted((when, one) for one, when in opens.items())
        )
        or UNSET,
        last_opened_at=max((one.at for one in of["open"]), default=UNSET),
        clicked=bool(clicks),
        click_count=len(clicks),
        click_list=tuple(
            ClickEvent(event_id=one, link=link, clicked_at=when)
            for when, one, link in sorted((when, one, link) for one, (when, link) in clicks.items())
        )
        or UNSET,
        last_clicked_at=max((one.at for one in of["click"]), default=UNSET),
        failed=bool(failed),
        failed_at=min((one.at for one in failed), default=UNSET),
        complained_at=min((one.at for one in of["complaint"]), default=UNSET),
        delay=max((one.delay for one in of["delay"]), key=by_time, default=UNSET),
    )
    found = after(record(), events)
    assert {**fields(found), "failure": None} == {**fields(expected), "failure": None}
    assert not failed or (found.failure and found.failure.kind == min((one.at, one.kind) for one in failed)[1])


def by_time(delay: Any) -> tuple[object, ...]:
    return delay.at, delay.until or at(-1), delay.type or "", delay.diagnostic or ""


def fields(of: EmailRecipientRecord) -> dict[str, object]:
    written: dict[str, object] = json.loads(records.encode(of))
    return written


ORDERS = ((3, 5, 7), (7, 5, 3), (7, 3, 5))


@pytest.mark.parametrize("order", ORDERS)
def test_delivered_at_is_the_earliest(order: tuple[int, ...]) -> None:
    changed = after(record(), [event("delivery", second, str(second)) for second in order])
    assert changed == record(delivered=True, delivered_at=at(3))


@pytest.mark.parametrize("order", ORDERS)
def test_opens_are_counted_and_listed_by_time_and_the_latest_is_kept(order: tuple[int, ...]) -> None:
    changed = after(record(), [event("open", second, f"id-{second}") for second in order])
    assert changed == record(
        opened=True,
        open_count=3,
        opened_at_list=tuple(OpenEvent(event_id=f"id-{second}", opened_at=at(second)) for second in (3, 5, 7)),
        last_opened_at=at(7),
    )


@pytest.mark.parametrize("order", ORDERS)
def test_clicks_are_counted_and_listed_by_time_and_the_latest_is_kept(order: tuple[int, ...]) -> None:
    changed = after(record(), [event("click", second, f"id-{second}", link=f"l{second}") for second in order])
    assert changed == record(
        clicked=True,
        click_count=3,
        click_list=tuple(
            ClickEvent(event_id=f"id-{second}", link=f"l{second}", clicked_at=at(second)) for second in (3, 5, 7)
        ),
        last_clicked_at=at(7),
    )


@pytest.mark.parametrize("order", ORDERS)
def test_one_open_at_three_times_counts_once_at_the_earliest(order: tuple[int, ...]) -> None:
    changed = after(record(), [event("open", second, "same") for second in order])
    assert changed.open_count == 1
    assert changed.opened_at_list == (OpenEvent(event_id="same", opened_at=at(3)),)
    assert changed.last_opened_at == at(7)


@pytest.mark.parametrize("order", ["abc", "cba", "cab"])
def test_opens_at_one_time_are_listed_by_their_ids(order: str) -> None:
    changed = after(record(), [event("open", 1, one) for one in order])
    assert [entry.event_id for entry in changed.opened_at_list or ()] == ["a", "b", "c"]


FAILURES = (
    event("complaint", 3, "1", failure=Failure(kind="complaint", type="abuse")),
    event("bounce", 4, "2", failure=Failure(kind="bounce", type="Permanent")),
    event("bounce", 3, "3", failure=Failure(kind="bounce", type="Transient", sub_type="General", diagnostic="4.2.2")),
)


@pytest.mark.parametrize("order", list(permutations(FAILURES)))
def test_the_earliest_failure_counts_and_a_bounce_before_a_complaint_of_the_same_time(
    order: tuple[EngagementEvent, ...],
) -> None:
    failure = Failure(kind="bounce", type="Transient", sub_type="General", diagnostic="4.2.2")
    assert after(record(), order) == record(failed=True, failed_at=at(3), failure=failure, complained_at=at(3))


COMPLAINTS = (event("bounce", 1, "1"), event("complaint", 5, "2"), event("complaint", 7, "3"), event("reject", 2, "4"))


@pytest.mark.parametrize("order", list(permutations(COMPLAINTS)))
def test_the_first_complaint_is_kept_whatever_failed_before_it(order: tuple[EngagementEvent, ...]) -> None:
    expected = record(failed=True, failed_at=at(1), failure=Failure(kind="bounce"), complained_at=at(5))
    assert after(record(), order) == expected


@pytest.mark.parametrize("known", [{}, {"failure": Failure(kind="bounce")}], ids=["of-go", "bounced"])
def test_a_complaint_after_a_failure_of_any_service_changes_the_record_once(known: dict[str, Any]) -> None:
    bounced = record(failed=True, failed_at=at(1), **known)
    complained = engagement.apply(bounced, event("complaint", 5))
    assert complained == record(failed=True, failed_at=at(1), complained_at=at(5), **known)
    assert engagement.apply(complained, event("complaint", 5)) is complained
    assert engagement.apply(complained, event("complaint", 6, "e2")) is complained


def test_the_replay_of_a_complaint_that_was_stored_without_its_time_changes_nothing() -> None:
    failure = {"kind": "complaint", "type": "abuse"}
    before = records.decode(stored(failed=True, failed_at=stamp(5), failure=failure))
    complaint = event("complaint", 5, failure=Failure(kind="complaint", type="abuse"))
    assert engagement.apply(before, complaint) is before
    bounced = engagement.apply(before, event("bounce", 1))
    assert (bounced.failure, bounced.complained_at) == (Failure(kind="bounce"), at(5))


def test_a_reject_is_a_failure() -> None:
    why = Failure(kind="reject", diagnostic="Bad content")
    changed = after(record(), [event("reject", -2, failure=why), event("bounce", 3)])
    assert changed == record(failed=True, failed_at=at(-2), failure=why)


@pytest.mark.parametrize("order", ORDERS)
def test_the_latest_delay_is_kept(order: tuple[int, ...]) -> None:
    delays = {second: Delay(type="MailboxFull", at=at(second), diagnostic=f"{second}") for second in order}
    changed = after(record(), [event("delay", second, delay=delays[second]) for second in order])
    assert changed == record(delay=delays[7])
    assert after(changed, [event("delay", 7, delay=delays[7]), event("delivery", 9)]).delay == delays[7]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_delays_of_one_time_all_trackers_keep_the_same(order: tuple[str, str]) -> None:
    assert after(record(), [event("delay", 1, delay=Delay(at=at(1), type=one)) for one in order]).delay == Delay(
        at=at(1), type="b"
    )


def test_a_record_that_the_go_service_rewrote_gets_the_fields_that_it_dropped_from_a_replay() -> None:
    """The Go service writes only the fields that it knows."""
    events = [event("bounce", 1), event("complaint", 5, "e2"), event("delay", 0, "e3")]
    whole = after(record(), events)
    written = json.loads(records.encode(whole))
    rewritten = {name: value for name, value in written.items() if name not in {"failure", "complained_at", "delay"}}
    assert after(records.decode(json.dumps(rewritten).encode()), events) == whole


@pytest.mark.parametrize(
    ("delivered", "failed"),
    [(event("delivery", 1, "e2"), event("complaint", 3)), (event("delivery", 0), event("bounce", 17))],
)
def test_a_record_can_be_delivered_and_failed(delivered: EngagementEvent, failed: EngagementEvent) -> None:
    for changed in (after(record(), [delivered, failed]), after(record(), [failed, delivered])):
        assert (changed.delivered, changed.delivered_at) == (True, delivered.at)
        assert (changed.failed, changed.failed_at, changed.failure) == (True, failed.at, failed.failure)


def test_a_transient_bounce_after_a_delivery_leaves_the_delivery() -> None:
    why = Failure(kind="bounce", type="Transient", sub_type="General")
    changed = after(record(), [event("delivery", 1), event("bounce", 60, "e2", failure=why)])
    assert changed == record(delivered=True, delivered_at=at(1), failed=True, failed_at=at(60), failure=why)


def test_an_open_before_the_mail_was_sent_counts() -> None:
    changed = after(record(), [event("open", -1), event("delivery", 1, "e2")])
    assert (changed.open_count, changed.last_opened_at, changed.delivered_at) == (1, at(-1), at(1))


@pytest.mark.parametrize("kind", examples.FAILURES)
def test_a_failure_without_details_still_has_its_kind(kind: Any) -> None:
    assert after(record(), [event(kind, failure=None)]).failure == Failure(kind=kind)


@pytest.mark.parametrize(
    ("failed_at", "expected_at", "failure"),
    [
        (UNSET, at(5), Failure(kind="bounce")),
        (at(6), at(5), Failure(kind="bounce")),
        (at(5), at(5), Failure(kind="bounce")),
        (at(4), at(4), UNSET),
    ],
)
def test_a_failure_of_the_go_service_gets_a_reason_if_the_event_is_not_later(
    failed_at: Any, expected_at: object, failure: object
) -> None:
    changed = after(record(failed=True, failed_at=failed_at), [event("bounce", 5)])
    assert (changed.failed_at, changed.failure) == (expected_at, failure)


def test_opens_that_the_go_service_counted_stay_counted() -> None:
    start = record(opened=True, open_count=9, last_opened_at=at(9))
    assert after(start, [event("open", 5)]).open_count == 10


def test_a_click_that_the_go_service_counted_is_not_counted_again() -> None:
    start = record(clicked=True, click_count=2, click_event_ids=("b", "a"), last_clicked_at=at(9))
    assert engagement.apply(start, event("click", 5, "a")) is start
    changed = engagement.apply(start, event("click", 5, "c", link="l"))
    assert (changed.click_count, changed.click_event_ids) == (3, ("a", "b", "c"))
    assert changed.click_list == (ClickEvent(event_id="c", link="l", clicked_at=at(5)),)


def test_only_a_record_of_the_go_service_has_click_event_ids() -> None:
    assert after(record(), [event("click")]).click_event_ids is UNSET


@pytest.mark.parametrize("kind", sorted(ses_event.KINDS))
def test_an_event_changes_only_its_own_part(kind: Any) -> None:
    parts = {
        "delivery": {"delivered", "delivered_at"},
        "open": {"opened", "open_count", "opened_at_list", "last_opened_at"},
        "click": {"clicked", "click_count", "click_list", "last_clicked_at"},
        "bounce": {"failed", "failed_at", "failure"},
        "complaint": {"failed", "failed_at", "failure", "complained_at"},
        "reject": {"failed", "failed_at", "failure"},
        "delay": {"delay"},
    }
    before, changed = record(), engagement.apply(record(), event(kind))
    names = {name for name in before.__struct_fields__ if getattr(before, name) != getattr(changed, name)}
    assert names == parts[kind]

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""get_email_engagement_analytics: the current counts of a group, with records of any service."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.buckets import fresh_record
from tests.acceptance.caller import GET_EMAIL_ENGAGEMENT_ANALYTICS
from tests.stack import ses_events

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller
    from tests.stack.sqs_endpoint import SqsEndpoint

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("tracker")]

INVALID_PAYLOAD = {"error": "invalid request payload"}
NOT_FOUND = {"error": "not found"}
INTERNAL = {"error": "internal error"}
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def counts(group_id: str, total_sent: int, **counted: int) -> dict[str, object]:
    """The reply with every count, 0 where none is given."""
    none = dict.fromkeys(("delivered", "opened", "unique_opened", "failed"), 0)
    return {"group_id": group_id, "total_sent": total_sent, **none, **counted}


def invalid() -> Iterable[Any]:
    """Requests that name no group."""
    for text in ("", "{", "null", "[]", "{}", '{"email_id": "g"}'):
        yield pytest.param(text.encode(), id=f"body-{text}")
    for value in ("null", '""', "1", '"\\ud83d"'):
        yield pytest.param(f'{{"group_id": {value}}}'.encode(), id=f"group_id-{value}")
    yield pytest.param(b'{"group_id": "\xff"}', id="not-utf-8")
    yield pytest.param(b'{"group_id": "g", "x": "\xff"}', id="not-utf-8-in-an-unknown-field")
    yield pytest.param(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep")


@pytest.mark.parametrize("body", list(invalid()))
async def test_request_that_names_no_group_is_an_invalid_payload(caller: Caller, body: bytes) -> None:
    assert await caller.ask(GET_EMAIL_ENGAGEMENT_ANALYTICS, body) == INVALID_PAYLOAD


@pytest.mark.parametrize(
    "group_id",
    ["never-sent", "a b", "never..sent", ".", "*", ">", "é", "a\r\nb", "a\0b", "=.1.g", "x" * 256, "é" * 128],
)
async def test_group_under_which_nothing_was_sent_is_not_found(caller: Caller, group_id: str) -> None:
    assert await caller.analytics(group_id=group_id) == NOT_FOUND


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("group_id", ["fresh", "a..b", "Spring 2025", "=x", "é*>"])
async def test_sent_emails_are_counted_at_once_under_any_group_id(caller: Caller, group_id: str) -> None:
    for total in (1, 2, 3):
        await caller.sent(group_id=group_id)
        assert await caller.analytics(group_id=group_id) == counts(group_id, total)


async def test_reply_has_the_fields_of_the_contract_in_its_order(caller: Caller, buckets: Buckets) -> None:
    await buckets.put_group("exact", ["one"])
    raw = await caller.ask_raw(GET_EMAIL_ENGAGEMENT_ANALYTICS, {"group_id": "exact", "unknown": [None]})
    assert json.loads(raw) == counts("exact", 1)
    assert list(json.loads(raw)) == ["group_id", "total_sent", "delivered", "opened", "unique_opened", "failed"]


async def test_counts_are_those_of_the_records(caller: Caller, buckets: Buckets) -> None:
    opens = [{"event_id": f"m{number}", "opened_at": "2025-01-15T11:00:00Z"} for number in range(3)]
    records: dict[str, dict[str, Any]] = {
        "fresh": {},
        "delivered": {"delivered": True},
        "opened": {"delivered": True, "opened": True, "open_count": 3, "opened_at_list": opens},
        "open-count-cut": {"delivered": True, "opened": True, "open_count": 9, "opened_at_list": opens},
        "by-go": {"delivered": True, "opened": True, "open_count": None, "opened_at_list": opens, "click_list": None},
        "opened-only": {"opened": True, "open_count": 1},
        "failed": {"delivered": True, "failed": True},
        "clicked": {"clicked": True, "click_count": 5},
    }
    await buckets.put_records(*(fresh_record(email_id, "counted", **changes) for email_id, changes in records.items()))
    by_older_go = {"email_id": "by-older-go", "group_id": "counted", "to": "a@example.com", "subject": "s"}
    by_older_go |= {"sent_at": "2025-01-15T10:30:00Z"}
    await buckets.put_records(by_older_go | {"opened": True, "opened_at_list": opens})
    await buckets.put_values({"corrupt": b"{", "empty": b""})
    await buckets.put_group("counted", [*records, "by-older-go", "corrupt", "empty", "missing"])
    expected = counts("counted", len(records) + 4, delivered=5, opened=19, unique_opened=5, failed=1)
    assert await caller.analytics(group_id="counted") == expected


async def test_id_that_the_index_names_twice_is_counted_once(caller: Caller, buckets: Buckets) -> None:
    await buckets.put_records(fresh_record("twice", "doubled", delivered=True))
    await buckets.put_group("doubled", ["twice", "twice"])
    assert await caller.analytics(group_id="doubled") == counts("doubled", 1, delivered=1)


async def test_each_answer_counts_everything_that_was_written_before_the_question(
    caller: Caller, buckets: Buckets
) -> None:
    email_ids = [f"live-{number}" for number in range(20)]
    await buckets.put_records(*(fresh_record(email_id, "live") for email_id in email_ids))
    for sent in range(1, 21):
        await buckets.put_group("live", email_ids[:sent])
        assert await caller.analytics(group_id="live") == counts("live", sent, delivered=sent - 1)
        await buckets.put_records(fresh_record(email_ids[sent - 1], "live", delivered=True))
    await (await buckets.recipients()).delete(email_ids[0])
    assert await caller.analytics(group_id="live") == counts("live", 20, delivered=19)
    await buckets.put_group("live", email_ids[5:])
    assert await caller.analytics(group_id="live") == counts("live", 15, delivered=15)
    await (await buckets.group_index()).delete("live")
    assert await caller.analytics(group_id="live") == NOT_FOUND


@pytest.mark.usefixtures("relay")
async def test_events_of_a_group_are_in_the_next_answer(caller: Caller, sqs_endpoint: SqsEndpoint) -> None:
    first, second, third = [await caller.sent(group_id="events") for _ in range(3)]
    assert await caller.analytics(group_id="events") == counts("events", 3)
    opened = ses_events.notification(ses_events.open_(f"events/{first}", NOON))
    for body in (
        opened,
        opened,
        ses_events.notification(ses_events.open_(f"events/{first}", NOON + timedelta(hours=1))),
        ses_events.notification(ses_events.delivery(f"events/{first}", NOON)),
        ses_events.notification(ses_events.bounce(f"events/{second}", NOON)),
        ses_events.notification(ses_events.complaint(f"events/{second}", NOON)),
        ses_events.notification(ses_events.delivery_delay(f"events/{first}", NOON)),
        ses_events.notification(ses_events.reject(f"events/{third}", NOON)),
        ses_events.notification(ses_events.bounce(f"events/{third}", NOON)),
    ):
        sqs_endpoint.send(body)
    await sqs_endpoint.wait_until_empty()
    assert await caller.analytics(group_id="events") == counts(
        "events", 3, delivered=1, opened=2, unique_opened=1, failed=2
    )


async def test_group_of_100_000_is_counted(caller: Caller, buckets: Buckets) -> None:
    email_ids = [str(uuid.UUID(int=number)) for number in range(100_000)]
    await buckets.put_group("huge", email_ids[:10_000])
    for number, start in enumerate(range(10_000, 100_000, 500), 1):
        await buckets.put_group(f"=.{number}.huge", email_ids[start : start + 500])
    records = [fresh_record(email_id, "huge", delivered=True) for email_id in email_ids[::1000]]
    await buckets.put_records(*records)
    assert await caller.analytics(group_id="huge") == counts("huge", 100_000, delivered=100)
    await buckets.put_records(fresh_record(email_ids[99_999], "huge", opened=True, open_count=2))
    expected = counts("huge", 100_000, delivered=100, opened=2, unique_opened=1)
    assert await caller.analytics(group_id="huge") == expected


@pytest.mark.parametrize("value", [b"{", b"{}", b'"x"', b"[1]", b"\xff"])
async def test_group_whose_index_is_corrupt_is_an_internal_error(
    caller: Caller, buckets: Buckets, value: bytes
) -> None:
    await (await buckets.group_index()).put("corrupt", value)
    assert await caller.analytics(group_id="corrupt") == INTERNAL

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""get_email_status: the reply to each request, with records of any service, and the pages of a large group."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance import services
from tests.acceptance.buckets import fresh_record
from tests.acceptance.caller import GET_EMAIL_STATUS
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("tracker")]

INVALID_PAYLOAD = {"error": "invalid request payload"}
REQUIRED = {"error": "email_id or group_id is required"}
ONLY_ONE = {"error": "only one of email_id or group_id may be set"}
NOT_FOUND = {"error": "not found"}
INTERNAL = {"error": "internal error"}
INVALID_OFFSET = {"error": "invalid offset"}
INVALID_LIMIT = {"error": "invalid limit"}
MANY = 4_000

NO_KEYS = {
    "unknown": str(uuid.UUID(int=0)),
    "blank": "a b",
    "not-ascii": "é",
    "wildcard": "*",
    "full-wildcard": ">",
    "two-dots": "never..sent",
    "dot-first": ".a",
    "dot-last": "a.",
    "dot": ".",
    "nul": "a\0b",
    "line-break": "a\r\nPUB x 0\r\n",
    "over-long": "x" * 256,
    "very-long": "x" * 100_000,
    "segment": "=.1.paged",
}


def invalid() -> Iterable[Any]:
    """Requests that are never answered with a record."""
    for body in (b"", b"null", b"[]", b'"x"', b"{", b"{} {}", b'{"email_id": "\xff"}', b'{"email_id": "\\ud83d"}'):
        yield pytest.param(body, INVALID_PAYLOAD, id=f"body-{body!r}")
    yield pytest.param(b'{"group_id": "paged", "x": "\xff"}', INVALID_PAYLOAD, id="body-not-utf-8-in-an-unknown-field")
    yield pytest.param(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", INVALID_PAYLOAD, id="body-deep")
    for field, wrong in (("email_id", "1"), ("group_id", '["x"]'), ("offset", '"1"'), ("limit", "true")):
        body = f'{{"group_id": "paged", "{field}": {wrong}}}'.encode()
        yield pytest.param(body, INVALID_PAYLOAD, id=f"{field}-{wrong}")
    for neither in ("{}", '{"email_id": null, "group_id": null}', '{"email_id": "", "group_id": ""}', '{"id": "x"}'):
        yield pytest.param(neither.encode(), REQUIRED, id=f"neither-{neither}")
    yield pytest.param(b'{"email_id": "x", "group_id": "y"}', ONLY_ONE, id="both")
    for number in ("-1", "0.5", "-0.5", "1e-9", "-1e30"):
        yield pytest.param(
            f'{{"group_id": "paged", "offset": {number}}}'.encode(), INVALID_OFFSET, id=f"offset-{number}"
        )
        yield pytest.param(f'{{"group_id": "paged", "limit": {number}}}'.encode(), INVALID_LIMIT, id=f"limit-{number}")


@pytest.mark.parametrize(("body", "reply"), list(invalid()))
async def test_request_that_cannot_be_answered_gets_its_error(
    caller: Caller, body: bytes, reply: dict[str, str]
) -> None:
    assert await caller.ask(GET_EMAIL_STATUS, body) == reply


@pytest.mark.parametrize("field", ["email_id", "group_id"])
@pytest.mark.parametrize("what", list(NO_KEYS))
async def test_id_that_names_nothing_is_not_found(caller: Caller, field: str, what: str) -> None:
    assert await caller.status(**{field: NO_KEYS[what]}) == NOT_FOUND


@pytest.mark.parametrize("form", ["{}", " {}", "{}\n", "\t{} "])
async def test_email_id_in_capitals_or_with_blanks_around_it_is_found(
    caller: Caller, buckets: Buckets, form: str
) -> None:
    email_id = str(uuid.uuid4())
    await buckets.put_records(fresh_record(email_id, "capitals"), fresh_record("Not-a-UUID", "capitals"))
    for given in (email_id, email_id.upper(), email_id.title()):
        assert (await caller.status(email_id=form.format(given)))["email_id"] == email_id
    assert (await caller.status(email_id=form.format("Not-a-UUID")))["email_id"] == "Not-a-UUID"
    assert await caller.status(email_id=form.format("NOT-A-UUID")) == NOT_FOUND
    for other in (f"{{{email_id}}}", f"urn:uuid:{email_id}", email_id.replace("-", "")):
        assert await caller.status(email_id=form.format(other)) == NOT_FOUND


@pytest.mark.usefixtures("relay")
async def test_fresh_record_is_answered_with_booleans_counts_and_no_nulls(caller: Caller, buckets: Buckets) -> None:
    email_id = await caller.sent(to="Ada <ada@example.com>", subject="Hëllo", group_id="fresh")
    raw = await caller.ask_raw(GET_EMAIL_STATUS, {"email_id": email_id})
    sent_at = json.loads(raw)["sent_at"]
    assert json.loads(raw) == fresh_record(
        email_id, "fresh", to="Ada <ada@example.com>", subject="Hëllo", sent_at=sent_at
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", sent_at)
    assert json.loads(raw) == await buckets.record(email_id)
    assert await caller.status(group_id="fresh") == [json.loads(raw)]
    assert await caller.status(email_id=email_id, group_id="", offset=-1) == json.loads(raw)


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("group_id", ["a..b", "Spring 2025", "=x", "é*>", "g" * 255, "%41", "A"])
async def test_group_of_any_name_is_found_under_exactly_this_name(caller: Caller, group_id: str) -> None:
    email_id = await caller.sent(group_id=group_id)
    assert [record["email_id"] for record in await caller.status(group_id=group_id)] == [email_id]


PAGED = [f"paged-{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("page", "numbers"),
    [
        ({}, range(10)),
        ({"offset": 0, "limit": 0}, range(10)),
        ({"offset": None, "limit": None}, range(10)),
        ({"limit": 3}, range(3)),
        ({"offset": 3, "limit": 4}, range(3, 7)),
        ({"offset": 8, "limit": 4}, range(8, 10)),
        ({"offset": 9}, range(9, 10)),
        ({"offset": 2.0, "limit": 1.0}, range(2, 3)),
        ({"offset": 10}, range(0)),
        ({"offset": 11, "limit": 1}, range(0)),
        ({"offset": 10**30}, range(0)),
        ({"limit": 10**30}, range(10)),
    ],
    ids=str,
)
async def test_pages_of_a_group_come_in_send_order(
    caller: Caller, buckets: Buckets, page: dict[str, object], numbers: range
) -> None:
    records = [fresh_record(email_id, "paged") for email_id in PAGED]
    await buckets.put_records(*reversed(records))
    await buckets.put_group("paged", PAGED)
    assert await caller.status(group_id="paged", **page) == [records[number] for number in numbers]


async def test_a_group_too_large_for_one_reply_gets_its_total_and_is_read_in_pages(
    caller: Caller, buckets: Buckets
) -> None:
    email_ids = [str(uuid.UUID(int=number)) for number in range(1, MANY + 1)]
    records = [fresh_record(email_id, "many", subject="s" * 60) for email_id in email_ids]
    await buckets.put_records(*records)
    await buckets.put_group("many", email_ids)
    assert await caller.status(group_id="many") == {"error": "response too large", "total": MANY}
    assert await caller.status(group_id="many", offset=100) == {"error": "response too large", "total": MANY}
    pages = [await caller.status(group_id="many", offset=offset, limit=1000) for offset in range(0, MANY, 1000)]
    assert [record for page in pages for record in page] == records


async def test_group_of_many_segments_comes_in_send_order(caller: Caller, buckets: Buckets) -> None:
    segments = [[f"{segment}-{number}" for number in range(3)] for segment in range(12)]
    await buckets.put_group("segmented", segments[0])
    for number, email_ids in reversed(list(enumerate(segments))[1:]):
        await buckets.put_group(f"=.{number}.segmented", email_ids)
    email_ids = [email_id for segment in segments for email_id in segment]
    await buckets.put_records(*(fresh_record(email_id, "segmented") for email_id in email_ids))
    assert [record["email_id"] for record in await caller.status(group_id="segmented")] == email_ids
    page = await caller.status(group_id="segmented", offset=2, limit=2)
    assert [record["email_id"] for record in page] == email_ids[2:4]


SENT = {"email_id": "go", "group_id": "go", "to": "a@example.com", "subject": "s", "sent_at": "2025-01-15T10:30:00Z"}
BOOLEANS = {"delivered": False, "opened": False, "open_count": 0, "clicked": False, "click_count": 0, "failed": False}
OPENS = [
    {"event_id": "m1", "opened_at": "2025-01-15T11:05:33Z"},
    {"event_id": "m2", "opened_at": "2025-01-15T14:22:10.123456Z"},
]
CLICKS = [{"event_id": "m3", "link": "https://lfx.dev/?a=1", "clicked_at": "2025-01-15T11:06:00Z"}]


@pytest.mark.parametrize(
    ("written", "answered"),
    [
        pytest.param({"delivered": False, "opened": False, "failed": False}, {}, id="oldest-fresh"),
        pytest.param(
            {
                "delivered": True,
                "delivered_at": "2025-01-15T10:30:02Z",
                "opened": True,
                "opened_at_list": OPENS,
                "last_opened_at": "2025-01-15T14:22:10.123456Z",
                "failed": False,
            },
            {"open_count": 2},
            id="counts-missing",
        ),
        pytest.param(
            dict.fromkeys(
                (
                    "delivered_at",
                    "opened_at_list",
                    "last_opened_at",
                    "click_event_ids",
                    "click_list",
                    "last_clicked_at",
                    "failed_at",
                )
            ),
            {},
            id="nulls",
        ),
        pytest.param({"opened_at_list": [], "click_list": []}, {}, id="empty-lists"),
        pytest.param({"opened": True, "open_count": 7, "opened_at_list": OPENS}, {}, id="count-above-the-list"),
        pytest.param(
            {"clicked": True, "click_count": 1, "click_list": CLICKS, "click_event_ids": ["m3"]}, {}, id="clicks"
        ),
        pytest.param({"bounced_by": "someone", "labels": {"a": "b"}}, {}, id="fields-of-a-newer-service"),
    ],
)
async def test_record_of_the_go_service_is_answered_complete_and_without_nulls(
    caller: Caller, buckets: Buckets, written: dict[str, Any], answered: dict[str, Any]
) -> None:
    await buckets.put_records(SENT | written)
    await buckets.put_group("go", ["go"])
    known = {name: value for name, value in written.items() if name not in {"bounced_by", "labels"}}
    record = BOOLEANS | SENT | {name: value for name, value in known.items() if value is not None} | answered
    got = await caller.status(email_id="go")
    assert {name: value for name, value in got.items() if value != []} == {
        name: value for name, value in record.items() if value != []
    }
    assert await caller.status(group_id="go") == [got]


async def test_times_of_the_go_service_keep_their_instant(caller: Caller, buckets: Buckets) -> None:
    await buckets.put_records(SENT | {"sent_at": "2025-01-15T10:30:00.123456789Z", "delivered_at": None})
    sent_at = (await caller.status(email_id="go"))["sent_at"]
    assert sent_at.endswith("Z")
    exactly = datetime.fromisoformat("2025-01-15T10:30:00.123456789Z")
    assert abs(datetime.fromisoformat(sent_at) - exactly) <= timedelta(microseconds=1)


async def test_records_that_are_missing_corrupt_or_deleted_are_left_out_of_their_group(
    caller: Caller, buckets: Buckets
) -> None:
    good = [fresh_record("good-1", "mixed"), fresh_record("good-2", "mixed")]
    await buckets.put_records(*good, fresh_record("gone", "mixed"))
    await buckets.put_values({"half": b"{", "list": b"[]", "empty": b"", "null": b"null", "binary": b"\xff\xfe"})
    await (await buckets.recipients()).delete("gone")
    names = ["good-1", "missing", "gone", "half", "list", "empty", "null", "binary", "no key", "*", "", "good-2"]
    await buckets.put_group("mixed", names)
    assert await caller.status(group_id="mixed") == good
    assert await caller.status(email_id="gone") == NOT_FOUND
    for corrupt in ("half", "list", "null", "binary"):
        assert await caller.status(email_id=corrupt) == INTERNAL


@pytest.mark.parametrize("value", [b"{", b"{}", b'"x"', b"[1]", b"\xff"])
async def test_group_whose_index_is_corrupt_is_an_internal_error(
    caller: Caller, buckets: Buckets, value: bytes
) -> None:
    await (await buckets.group_index()).put("corrupt", value)
    assert await caller.status(group_id="corrupt") == INTERNAL


async def test_deleted_group_is_not_found(caller: Caller, buckets: Buckets) -> None:
    await buckets.put_records(fresh_record("one", "removed"))
    await buckets.put_group("removed", ["one"])
    assert len(await caller.status(group_id="removed")) == 1
    await (await buckets.group_index()).delete("removed")
    assert await caller.status(group_id="removed") == NOT_FOUND


async def test_a_missing_bucket_is_an_internal_error_until_it_is_created_again() -> None:
    async with services.platform() as platform, services.tracker(platform.nats) as tracker:
        caller, buckets = platform.caller, platform.buckets

        async def ask_all() -> list[Any]:
            questions = caller.status(email_id="one"), caller.status(group_id="g"), caller.analytics(group_id="g")
            return list(await asyncio.gather(*questions))

        record = fresh_record("one", "g")
        counts = {"group_id": "g", "total_sent": 1, "delivered": 0, "opened": 0, "unique_opened": 0, "failed": 0}
        assert await ask_all() == [NOT_FOUND] * 3
        for _ in range(2):
            await buckets.put_records(record)
            await buckets.put_group("g", ["one"])
            assert await ask_all() == [record, [record], counts]
            await buckets.delete()
            assert await ask_all() == [INTERNAL] * 3
            assert (await tracker.get("/readyz"))[0] == 200
            await buckets.create()  # a busy server may answer a direct get from the deleted one for a moment
            await until(ask_all, lambda replies: replies == [NOT_FOUND] * 3)
        await tracker.wait_for_log("query.failed", count=6)
        assert len(tracker.logged("query.failed")) == 6
        assert not tracker.logged("request.failed")


async def test_with_the_setting_both_ids_get_the_record_of_the_group() -> None:
    async with services.platform() as platform, services.tracker(platform.nats, STATUS_BY_BOTH_IDS="true"):
        caller, record = platform.caller, fresh_record("one", "g")
        await platform.buckets.put_records(record)
        assert await caller.status(email_id="one", group_id="g") == record
        assert await caller.status(email_id="one", group_id="other") == NOT_FOUND
        assert await caller.status(email_id="two", group_id="g") == NOT_FOUND


async def test_a_bucket_without_direct_gets_gives_the_same_replies() -> None:
    async with services.platform() as platform, services.tracker(platform.nats):
        caller, buckets = platform.caller, platform.buckets
        await buckets.delete()
        await buckets.create(direct=False)
        records = [fresh_record(f"e{number}", "g") for number in range(100)]
        await buckets.put_records(*records)
        await buckets.put_group("g", [record["email_id"] for record in records[:60]])
        await buckets.put_group("=.1.g", [record["email_id"] for record in records[60:]])
        # The tracker may know the bucket that was deleted; each query that fails lets it look again.
        await until(partial(caller.status, group_id="g"), lambda reply: reply == records)
        assert await caller.status(email_id="e7") == records[7]
        assert await caller.status(email_id="missing") == NOT_FOUND
        assert (await caller.analytics(group_id="g"))["total_sent"] == 100


async def test_a_tracker_without_events_starts_without_buckets_and_uses_them_when_they_exist() -> None:
    async with services.platform() as platform:
        await platform.buckets.delete()
        async with services.tracker(platform.nats) as tracker:
            assert "create-missing" in (await tracker.wait_for_log("bucket.unusable", count=2))["advice"]
            assert await platform.caller.status(email_id="one") == INTERNAL
            await platform.buckets.create()
            assert await platform.caller.status(email_id="one") == NOT_FOUND

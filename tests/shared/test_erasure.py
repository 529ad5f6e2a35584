# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Erasing removes the personal data of a record, and changes no id, time or count."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from shared import contract, decoding, erasure
from shared.erasure import Erasures
from shared.errors import KeyMissing
from shared.kv.bucket import Bucket
from shared.nats.inbox import Inbox
from tests.stack.bucket import stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js.kv import KeyValue

    from shared.nats.connection import Connection

AT: Final = "2026-01-02T03:04:05.123456789Z"  # with the nanoseconds of the Go service
KEPT: Final[dict[str, Any]] = {
    "email_id": "e1",
    "group_id": "speakers",
    "sent_at": AT,
    "delivered": True,
    "delivered_at": AT,
    "opened": True,
    "open_count": 3,
    "opened_at_list": [{"event_id": "o1", "opened_at": AT}],
    "last_opened_at": AT,
    "clicked": True,
    "click_count": 2,
    "click_event_ids": ["c1"],
    "last_clicked_at": AT,
    "failed": True,
    "failed_at": AT,
    "complained_at": None,
    "counted_later": 7,
    "flag_later": False,
}
FAILURE: Final = {"kind": "bounce", "type": "Permanent", "sub_type": "General"}
DELAY: Final = {"type": "MailboxFull", "at": AT, "until": AT}
RECORD: Final = KEPT | {
    "to": '"Ada" <ada@example.com>',
    "subject": "Dear Ada",
    "click_list": [{"event_id": "c1", "link": "https://ada.example", "clicked_at": AT, "agent": "ada"}],
    "failure": FAILURE | {"diagnostic": "550 ada"},
    "delay": DELAY | {"diagnostic": "452 ada"},
    "tags": {"who": "ada"},
    "text_later": "ada",
    "list_later": ["ada"],
}
ERASED: Final = KEPT | {
    "to": "erased",
    "subject": "erased",
    "click_list": [{"event_id": "c1", "link": "", "clicked_at": AT}],
    "failure": FAILURE,
    "delay": DELAY,
}


def test_ids_times_and_counts_stay_and_everything_else_goes() -> None:
    erased = erasure.erase(json.dumps(RECORD).encode())
    assert erased
    assert json.loads(erased) == ERASED
    assert b"ada" not in erased.lower()


def test_an_erased_record_has_nothing_to_erase() -> None:
    assert erasure.erase(json.dumps(ERASED).encode()) is None
    assert erasure.erase(erasure.erase(json.dumps(RECORD).encode()) or b"") is None


@pytest.mark.parametrize("name", ["to", "subject", "tags", "click_list", "failure", "delay", "text_later"])
def test_data_that_comes_back_into_an_erased_record_is_erased_again(name: str) -> None:
    again = erasure.erase(json.dumps(ERASED | {name: RECORD[name]}).encode())
    assert again
    assert json.loads(again) == ERASED


@pytest.mark.parametrize("name", ["opened_at_list", "click_list", "failure", "delay"])
def test_a_field_of_another_type_is_removed_and_null_stays(name: str) -> None:
    for field, kept in (("ada", {}), ([1], {}), (None, {name: None})):
        erased = erasure.erase(json.dumps({"to": "a", name: field}).encode())
        assert erased
        assert json.loads(erased) == {"to": "erased"} | kept


@pytest.mark.parametrize("value", [b"", b"[]", b"null", b'"to"', b'{"to":', b'{"to":"\xff"}'])
def test_a_value_that_is_not_an_object_raises_malformed(value: bytes) -> None:
    with pytest.raises(decoding.Malformed):
        erasure.erase(value)


def test_the_oldest_opens_and_clicks_of_an_erased_record_go_where_it_does_not_fit() -> None:
    opens = [{"event_id": f"o{number}", "opened_at": AT} for number in range(25)]
    value = json.dumps(ERASED | {"opened_at_list": opens}, separators=(",", ":")).encode()
    shortened = json.loads(erasure.shorten(value, len(value) - 1))
    assert shortened == ERASED | {"opened_at_list": opens[10:]}
    assert "opened_at_list" not in json.loads(erasure.shorten(value, 1))
    assert erasure.shorten(value, len(value)) == value


@pytest.fixture
async def inbox(nats_connection: Connection) -> AsyncIterator[Inbox]:
    """The inbox of the connection."""
    async with Inbox(nats_connection) as opened:
        yield opened


@pytest.fixture
async def bucket(kv: KeyValue, inbox: Inbox, nats_connection: Connection) -> Bucket:
    """An empty bucket."""
    assert kv
    return Bucket(inbox, nats_connection, "b")


async def test_a_record_is_erased_once(bucket: Bucket) -> None:
    await bucket.create("e1", json.dumps(RECORD).encode())
    results = await asyncio.gather(*(Erasures(bucket).erase("e1") for _ in range(4)))
    assert sorted(results) == [False, False, False, True]
    assert json.loads((await bucket.get("e1")).value) == ERASED


async def test_a_record_that_is_missing_is_not_created(bucket: Bucket) -> None:
    assert not await Erasures(bucket).erase("e1")
    with pytest.raises(KeyMissing):
        await bucket.get("e1")


async def test_old_values_of_an_erased_record_leave_a_bucket_with_a_history(
    inbox: Inbox, nats_connection: Connection
) -> None:
    jetstream = nats_connection.jetstream()
    old = await jetstream.create_key_value(bucket="old", history=5)
    for _ in range(3):
        await old.put("e1", json.dumps(RECORD).encode())
        await old.put("e2", b"{}")
    assert await Erasures(Bucket(inbox, nats_connection, "old")).erase("e1")
    left = [await stored(jetstream, "old", key) for key in ("e1", "e2")]
    assert [json.loads(msg.data or b"") for msg in left[0]] == [ERASED]
    assert len(left[1]) == 3


async def test_the_latest_note_of_an_address_counts_and_does_not_show_the_address(bucket: Bucket) -> None:
    erasures, now = Erasures(bucket), datetime.now(UTC)
    assert await erasures.erased_at("ada@example.com") is None
    for seconds in (0, 5):
        await erasures.note("ada@example.com", now + timedelta(seconds=seconds))
    assert await erasures.erased_at("ada@example.com") == now + timedelta(seconds=5)
    assert await erasures.erased_at("bob@example.com") is None
    assert "ada" not in erasure.key_of("ada@example.com")


@pytest.mark.parametrize(("seconds", "is_erased"), [(-1, True), (0, True), (1, False)])
async def test_a_late_record_is_erased_if_its_email_was_sent_before_the_erasure(
    bucket: Bucket, seconds: int, *, is_erased: bool
) -> None:
    erasures, now = Erasures(bucket), datetime.now(UTC)
    await erasures.note("ada@example.com", now)
    record = contract.EmailRecipientRecord(
        email_id="e1",
        group_id="g",
        to="Ada <ADA@Example.com>",
        subject="Dear Ada",
        sent_at=now + timedelta(seconds=seconds),
    )
    await bucket.create("e1", json.dumps({"to": record.to}).encode())
    assert await erasures.erase_if_noted(record) is is_erased
    assert (json.loads((await bucket.get("e1")).value)["to"] == "erased") is is_erased

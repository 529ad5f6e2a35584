# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Request bytes to reply bytes, with steps that the test controls."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from relay import errors, idempotency, mime
from relay.idempotency import Repeat
from relay.records.idempotency_store import DisabledIdempotencyStore
from relay.send_email_handler import ERROR_STRINGS, SendEmailHandler, Steps, error_string
from shared import contract, decoding, suppression_list
from shared.errors import StoreError, StoreUnavailable
from tests.relay.steps import OPTIONS, REQUEST, Keys, Mails, Store, StuckStore, answer
from tests.stack.waiting import until

if TYPE_CHECKING:
    from relay.idempotency import KeyState

AT = datetime(2026, 1, 2, tzinfo=UTC)


async def test_a_mail_that_is_accepted_is_recorded_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mails, store = Mails(), Store()
    reply = await answer(mails, store, REQUEST)
    [(envelope, message)], [record] = mails.sent, store.records
    assert reply == {"email_id": record.email_id, "group_id": "g"}
    assert envelope.recipient == "anna@example.com"
    assert f"X-LFX-TRACKING-ID: g/{record.email_id}\r\n".encode() in message
    [line] = caplog.records
    assert line.message == "email.sent"
    assert (line.__dict__["email_id"], line.__dict__["to"]) == (record.email_id, "a***@example.com")
    assert "secret" not in str(line.__dict__)


@pytest.mark.parametrize("keys", [None, Keys()], ids=["without a key", "with a key"])
async def test_a_sent_mail_is_answered_with_its_ids_if_a_stop_interrupts_the_write_of_its_record(
    keys: Keys | None,
) -> None:
    store = StuckStore()
    answering = asyncio.create_task(answer(Mails(), store, REQUEST, keys))
    await until(lambda: len(store.records) == 1)
    answering.cancel()
    assert await answering == {"email_id": store.records[0].email_id, "group_id": "g"}


async def test_a_request_without_a_group_gets_a_new_one() -> None:
    first, second = [await answer(Mails(), Store(), {**REQUEST, "group_id": given}) for given in ("", None)]
    assert len({first["group_id"], second["group_id"], first["email_id"], second["email_id"]}) == 4


def all_kinds(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(one for child in kind.__subclasses__() for one in all_kinds(child))]


FAILURES: dict[str, list[type[Exception]]] = {
    contract.SERVICE_BUSY: [errors.HeldBack],
    contract.DELIVERY_FAILED: [one for one in all_kinds(errors.DeliveryError) if one is not errors.HeldBack],
    contract.INTERNAL_ERROR: [*all_kinds(StoreError), suppression_list.EntryCorrupt],
    contract.INVALID_REQUEST_PAYLOAD: [decoding.Malformed],
    contract.INVALID_IDEMPOTENCY_KEY: [idempotency.Malformed],
}


@pytest.mark.parametrize(("expected", "kind"), [(text, kind) for text, kinds in FAILURES.items() for kind in kinds])
def test_each_kind_of_error_has_its_error_string(expected: str, kind: type[Exception]) -> None:
    assert error_string(kind("x")) == expected


def test_each_error_string_is_tested() -> None:
    assert {kind: error_string(kind("x")) for kind in ERROR_STRINGS} == ERROR_STRINGS
    assert set(ERROR_STRINGS.values()) == set(FAILURES)


@pytest.mark.parametrize("kind", FAILURES[contract.DELIVERY_FAILED][1:])
async def test_a_mail_that_is_not_accepted_leaves_no_record(
    kind: type[errors.DeliveryError], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    reply = await answer(Mails(kind("no such user", 550)), store, REQUEST)
    assert reply == {
        "error": "email delivery failed",
        "outcome": "unknown" if kind is errors.Uncertain else "not_sent",
        "permanent": kind is errors.Rejected,
        "smtp_code": 550,
    }
    assert not store.records
    [line] = caplog.records
    assert line.message == ("email.uncertain" if kind is errors.Uncertain else "email.failed")
    assert (line.__dict__["code"], line.__dict__["error"]) == (550, "no such user")
    assert line.__dict__["kind"] == kind.outcome
    assert "anna@" not in str(line.__dict__)
    assert line.__dict__["email_id"]


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "sent"), (errors.Uncertain("no reply"), "unknown"), (errors.Rejected("no", 550), None)],
    ids=["sent", "uncertain", "failed"],
)
async def test_the_key_of_a_mail_is_settled_by_its_outcome(
    error: errors.DeliveryError | None, state: KeyState | None
) -> None:
    keys = Keys()
    await answer(Mails(error), Store(), REQUEST, keys)
    assert keys.settled == [state]


class BrokenList:
    """A suppression list that fails unexpectedly."""

    async def find(self, address: str) -> None:  # noqa: ARG002 - interface
        """Fail."""
        raise RuntimeError


NOT_SENT = {"error": "internal error", "outcome": "not_sent"}
UNKNOWN = {"error": "internal error", "outcome": "unknown"}


async def test_an_unexpected_error_while_the_message_is_built_names_the_outcome(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError

    monkeypatch.setattr(mime, "build", fail)
    assert await answer(Mails(), Store(), REQUEST) == NOT_SENT
    assert [one.message for one in caplog.records] == ["request.failed"]


async def test_an_unexpected_error_before_the_delivery_frees_the_key(caplog: pytest.LogCaptureFixture) -> None:
    mails, keys = Mails(), Keys()
    assert await answer(mails, Store(), REQUEST, keys, BrokenList()) == NOT_SENT
    assert (mails.sent, keys.settled) == ([], [None])
    [line] = caplog.records
    assert (line.message, line.__dict__["subject"]) == ("request.failed", contract.SEND_EMAIL_SUBJECT)
    assert line.exc_info


async def test_an_unexpected_error_of_the_delivery_makes_the_outcome_of_the_key_unknown() -> None:
    keys = Keys()
    assert await answer(Mails(RuntimeError()), Store(), REQUEST, keys) == UNKNOWN
    assert keys.settled == ["unknown"]


class BrokenKeys(Keys):
    """Fails unexpectedly, or is interrupted."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    async def begin(self, *_: object, **__: object) -> Keys:
        """Fail."""
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError(), asyncio.CancelledError()], ids=repr)
async def test_an_error_while_the_key_is_taken_is_answered_not_sent(error: BaseException) -> None:
    mails = Mails()
    assert await answer(mails, Store(), REQUEST, BrokenKeys(error)) == NOT_SENT
    assert not mails.sent


class BrokenStore(Store):
    """Fails unexpectedly."""

    async def write(self, *_: object, **__: object) -> None:
        """Fail."""
        raise RuntimeError


async def test_a_sent_mail_is_answered_with_its_ids_if_its_record_fails_unexpectedly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = Keys()
    assert (await answer(Mails(), BrokenStore(), REQUEST, keys))["group_id"] == "g"
    assert keys.settled == ["sent"]
    assert [line.message for line in caplog.records] == ["request.failed"]


async def test_a_repeat_whose_record_fails_unexpectedly_does_not_call_the_mail_unsent() -> None:
    repeat = Repeat(email_id="e", group_id="g", sent_at=AT)
    assert await answer(Mails(), BrokenStore(), REQUEST, Keys(repeat)) == UNKNOWN


async def test_without_a_reply_of_the_server_there_is_no_code() -> None:
    reply = await answer(Mails(errors.Deferred("cannot connect")), Store(), REQUEST)
    assert reply == {"error": "email delivery failed", "outcome": "not_sent", "permanent": False}


@pytest.mark.parametrize(
    ("repeat", "reply", "event"),
    [
        (Repeat(email_id="e", group_id="g", sent_at=AT), {"email_id": "e", "group_id": "g"}, "email.repeated"),
        (
            Repeat(email_id="e", group_id="g", sent_at=AT, error="request in progress"),
            {"error": "request in progress"},
            "email.refused",
        ),
    ],
    ids=["first was sent", "first is being sent"],
)
async def test_a_repeat_sends_nothing_and_the_log_has_the_id_of_the_first(
    repeat: Repeat, reply: dict[str, str], event: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mails, store = Mails(), Store()
    assert await answer(mails, store, REQUEST, Keys(repeat)) == reply
    assert not mails.sent
    [line] = caplog.records
    assert (line.message, line.__dict__["email_id"]) == (event, "e")


async def test_a_repeat_writes_the_record_of_the_first_before_its_answer() -> None:
    """The relay of the first request may have died before it stored the record, or while it kept it."""
    store = Store()
    repeat = Repeat(email_id="e", group_id="g", sent_at=AT)
    for _ in range(2):
        await answer(Mails(), store, REQUEST, Keys(repeat))
    [record] = store.records
    assert (record.email_id, record.group_id, record.sent_at) == ("e", "g", AT)
    assert (record.to, record.subject) == (REQUEST["to"], REQUEST["subject"])


async def test_a_repeat_with_an_error_writes_no_record() -> None:
    store = Store()
    await answer(Mails(), store, REQUEST, Keys(Repeat(email_id="e", group_id="g", sent_at=AT, error="in progress")))
    assert not store.records


async def test_a_key_is_settled_as_sent_once_the_record_is_stored_or_kept() -> None:
    order: list[str] = []

    class Ordered(Store, Keys):
        async def write(self, *_: object, **__: object) -> None:
            await asyncio.sleep(0)
            order.append("record")

        async def settle(self, *_: object, **__: object) -> None:
            order.append("key")

        def __init__(self) -> None:
            Store.__init__(self)
            Keys.__init__(self)

    steps = Ordered()
    await answer(Mails(), steps, REQUEST, steps)
    assert order == ["record", "key"]


async def test_the_key_is_settled_if_a_stop_interrupts_the_write_of_the_record() -> None:
    store, keys = StuckStore(), Keys()
    answering = asyncio.create_task(answer(Mails(), store, REQUEST, keys))
    await until(lambda: len(store.records) == 1)
    answering.cancel()
    await answering
    assert keys.settled == ["sent"]


async def test_a_mail_that_the_send_rate_held_back_is_answered_service_busy_and_frees_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = Keys()
    reply = await answer(Mails(errors.HeldBack("held back by SES_MAX_SEND_RATE")), Store(), REQUEST, keys)
    assert reply == {"error": "service busy"}
    assert keys.settled == [None]
    [line] = caplog.records
    assert (line.message, line.__dict__["reason"]) == ("email.refused", "service busy")


class KeysUnavailable(Keys):
    """Cannot reach the bucket."""

    async def begin(self, *_: object, **__: object) -> Keys:
        """Fail."""
        raise StoreUnavailable("no responders")


async def test_without_the_bucket_of_the_keys_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    mails = Mails()
    assert await answer(mails, Store(), REQUEST, KeysUnavailable()) == NOT_SENT
    assert not mails.sent
    [line] = caplog.records
    assert (line.levelno, line.message, line.__dict__["error"]) == (logging.ERROR, "email.refused", "no responders")


async def test_a_malformed_key_is_refused_with_sending_disabled_too() -> None:
    mails = Mails()
    refused = await answer(mails, Store(), {**REQUEST, "idempotency_key": "x" * 257})
    assert refused == {"error": "invalid idempotency_key"}
    assert not mails.sent


@pytest.mark.parametrize(
    ("request_", "result"),
    [(REQUEST, "sent"), ({**REQUEST, "to": "a@example.org"}, "filtered"), ({}, contract.REQUIRED_FIELDS_MISSING)],
)
async def test_each_request_is_counted_once(request_: dict[str, str], result: str) -> None:
    handler = SendEmailHandler(OPTIONS, Steps(Mails(), Store(), DisabledIdempotencyStore()))
    await handler(json.dumps(request_).encode())
    assert handler.results == {result: 1}


async def test_nothing_is_sent_while_too_many_records_are_kept() -> None:
    mails = Mails()
    assert await answer(mails, Store(is_full=True), REQUEST) == {"error": "service busy"}
    assert not mails.sent


async def test_a_recipient_outside_the_allowlist_is_answered_with_empty_ids() -> None:
    mails, store = Mails(), Store()
    assert await answer(mails, store, {**REQUEST, "to": "a@example.org"}) == {"email_id": "", "group_id": ""}
    assert not mails.sent
    assert not store.records


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"null",
        b'{"to":1}',
        b'{"to":"\xff"}',
        b'{"to":"a@example.com","subject":"\\ud83d cut","html":"h","text":"t"}',
        b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda malformed: repr(malformed[:24]),
)
async def test_a_malformed_request_is_refused_and_sends_nothing(malformed: bytes) -> None:
    mails = Mails()
    assert await answer(mails, Store(), malformed) == {"error": "invalid request payload"}
    assert not mails.sent


async def _refusal(request: dict[str, Any]) -> dict[str, Any]:
    return await answer(Mails(), Store(), request)


@pytest.mark.parametrize("missing", ["to", "subject", "html", "text"])
@pytest.mark.parametrize("given", [None, ""])
async def test_a_required_field_that_is_absent_null_or_empty_is_missing(missing: str, given: str | None) -> None:
    absent = {name: value for name, value in REQUEST.items() if name != missing}
    for request in (absent, absent | {missing: given}):
        assert await _refusal(request) == {"error": "to, subject, html, and text are required"}

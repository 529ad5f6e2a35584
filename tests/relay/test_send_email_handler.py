# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Request bytes to reply bytes, with a mail server and a store that the test decides about."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from relay import errors
from relay.records.idempotency_store import NoClaims
from relay.send_email_handler import REASONS, Options, SendEmailHandler
from relay.submission import Policy
from shared.addresses import parse
from tests.stack.waiting import until

if TYPE_CHECKING:
    from relay.smtp.connection import Envelope
    from shared import contract

POLICY = Policy(
    sender=parse("noreply@lfx.linuxfoundation.org"),
    display_name="LFX Self Serve",
    from_domains=frozenset({"lfx.linuxfoundation.org"}),
    reply_to_domains=("linuxfoundation.org",),
    recipient_domains=("example.com",),
)
OPTIONS = Options(POLICY, "", send_retry_seconds=8.0, longest_request=timedelta(seconds=48))
REQUEST = {"to": "anna@example.com", "subject": "Hi", "html": "<p>secret</p>", "text": "secret", "group_id": "g"}


class Mails:
    """Takes every mail, or ends each as the test says."""

    event = "email.sent"

    def __init__(self, error: errors.DeliveryError | None = None) -> None:
        self.sent: list[tuple[Envelope, bytes]] = []
        self._error = error

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float) -> None:  # noqa: ARG002 - the face
        """Take a mail."""
        if self._error:
            raise self._error
        self.sent.append((envelope, message))


class Store:
    """Takes every record."""

    def __init__(self, *, has_room: bool = True) -> None:
        self.has_room = has_room
        self.records: list[contract.EmailRecipientRecord] = []

    async def write(self, record: contract.EmailRecipientRecord, *, deadline: float) -> None:  # noqa: ARG002 - the face
        """Take a record."""
        self.records.append(record)


class StuckStore(Store):
    """Never comes to an end with a record."""

    async def write(self, record: contract.EmailRecipientRecord, *, deadline: float) -> None:
        """Take a record, and go on for ever."""
        await super().write(record, deadline=deadline)
        await asyncio.Event().wait()


async def answer(mails: Mails, store: Store, request: bytes | dict[str, Any]) -> dict[str, Any]:
    handler = SendEmailHandler(mails, store, NoClaims(), OPTIONS)
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    reply: dict[str, Any] = json.loads(await handler(data))
    assert sum(handler.results.values()) == 1
    return reply


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


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_sent_mail_is_answered_with_its_ids_though_a_stop_breaks_off_its_record(key: str | None) -> None:
    store = StuckStore()
    answering = asyncio.create_task(answer(Mails(), store, {**REQUEST, "idempotency_key": key}))
    await until(lambda: len(store.records) == 1)
    answering.cancel()
    assert await answering == {"email_id": store.records[0].email_id, "group_id": "g"}


async def test_without_a_group_it_gets_one_of_its_own() -> None:
    first, second = [await answer(Mails(), Store(), {**REQUEST, "group_id": given}) for given in ("", None)]
    assert len({first["group_id"], second["group_id"], first["email_id"], second["email_id"]}) == 4


def all_kinds(kind: type[errors.DeliveryError]) -> list[type[errors.DeliveryError]]:
    return [one for child in kind.__subclasses__() for one in (child, *all_kinds(child))]


def test_every_kind_of_failure_has_its_words() -> None:
    assert set(REASONS) == set(all_kinds(errors.DeliveryError))


@pytest.mark.parametrize("kind", [kind for kind in all_kinds(errors.DeliveryError) if kind is not errors.Suppressed])
async def test_a_mail_that_is_not_accepted_leaves_no_record(
    kind: type[errors.DeliveryError], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    assert await answer(Mails(kind("no such user", 550)), store, REQUEST) == {"error": REASONS[kind]}
    assert not store.records
    [line] = caplog.records
    assert line.message == ("email.uncertain" if kind is errors.Uncertain else "email.failed")
    assert (line.__dict__["code"], line.__dict__["error"]) == (550, "no such user")
    assert "anna@" not in str(line.__dict__)
    assert line.__dict__["email_id"]


async def test_a_recipient_in_the_suppression_list_is_told_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mails, store = Mails(errors.Suppressed("smtp; 550 anna@example.com", reason="bounce")), Store()
    assert await answer(mails, store, REQUEST) == {"error": "recipient suppressed", "reason": "bounce"}
    assert not store.records
    [line] = caplog.records
    assert (line.message, line.__dict__["reason"]) == ("email.suppressed", "bounce")
    assert "anna@" not in str(line.__dict__)


async def test_with_too_many_records_kept_nothing_is_sent() -> None:
    mails = Mails()
    assert await answer(mails, Store(has_room=False), REQUEST) == {"error": "service busy"}
    assert not mails.sent


async def test_a_recipient_outside_the_allowlist_is_answered_with_empty_ids() -> None:
    mails, store = Mails(), Store()
    assert await answer(mails, store, {**REQUEST, "to": "a@example.org"}) == {"email_id": "", "group_id": ""}
    assert not mails.sent
    assert not store.records


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"{",
        b"[]",
        b'"to"',
        b"null",
        b"\xff",
        b'{"to":"\xff"}',
        b'{"to":"a@example.com","subject":"\\ud83d cut","html":"h","text":"t"}',
        b'{"to":1}',
        b'{"to":["a@example.com"]}',
        b'{"to":NaN}',
        b'{"unknown":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda poison: repr(poison[:24]),
)
async def test_f64_what_is_no_request_is_answered_and_sends_nothing(poison: bytes) -> None:
    mails = Mails()
    assert await answer(mails, Store(), poison) == {"error": "invalid request payload"}
    assert not mails.sent


async def _refusal(request: dict[str, Any]) -> dict[str, Any]:
    return await answer(Mails(), Store(), request)


@pytest.mark.parametrize("missing", ["to", "subject", "html", "text"])
@pytest.mark.parametrize("given", [None, ""])
async def test_a_required_field_that_is_absent_null_or_empty_is_missing(missing: str, given: str | None) -> None:
    absent = {name: value for name, value in REQUEST.items() if name != missing}
    for request in (absent, absent | {missing: given}):
        assert await _refusal(request) == {"error": "to, subject, html, and text are required"}

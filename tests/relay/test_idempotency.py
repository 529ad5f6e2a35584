# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The rules of idempotency keys: valid keys, fingerprints of requests, and the answer to a repeat."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import idempotency
from relay.idempotency import KeyState, StoredKey
from shared.contract import SendEmailRequest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONGEST = timedelta(seconds=48)
REQUEST = {"to": "a@example.com", "subject": "Hi", "html": "<p>Hi</p>", "text": "Hi"}


def request(**changes: Any) -> SendEmailRequest:
    return msgspec.convert({**REQUEST, **changes}, SendEmailRequest)


def stored(state: KeyState = "started", fingerprint: str = "same", age: float = 0) -> StoredKey:
    started_at = NOW - timedelta(seconds=age)
    return StoredKey(fingerprint=fingerprint, email_id="e", group_id="g", started_at=started_at, state=state)


@pytest.mark.parametrize(
    ("changes", "headers", "key"),
    [
        ({}, None, None),
        ({}, {"traceparent": "00-1"}, None),
        ({"idempotency_key": None}, {}, None),
        ({"idempotency_key": ""}, {}, None),
        ({"idempotency_key": "a"}, None, "a"),
        ({"idempotency_key": " \n"}, None, " \n"),
        ({"idempotency_key": "x" * 256}, None, "x" * 256),
        ({"idempotency_key": "😀" * 256}, None, "😀" * 256),
        ({}, {"Idempotency-Key": "a"}, "a"),
        ({}, {"idempotency-key": "a"}, "a"),
        ({"idempotency_key": ""}, {"IDEMPOTENCY-KEY": "a"}, "a"),
        ({"idempotency_key": "field"}, {"Idempotency-Key": "header"}, "field"),
        ({"idempotency_key": "field"}, {"Idempotency-Key": "x" * 257}, "field"),
    ],
)
def test_the_field_wins_over_the_header(
    changes: dict[str, object], headers: dict[str, str] | None, key: str | None
) -> None:
    assert idempotency.key_in(request(**changes), headers) == key


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"idempotency_key": "x" * 257}, None),
        ({}, {"Idempotency-Key": "x" * 257}),
        ({}, {"Idempotency-Key": ""}),
        ({}, {"Idempotency-Key": "a\udcfc"}),
        ({"idempotency_key": "x" * 257}, {"Idempotency-Key": "a"}),
    ],
)
def test_a_key_that_cannot_be_stored_is_malformed(changes: dict[str, object], headers: dict[str, str] | None) -> None:
    with pytest.raises(idempotency.Malformed):
        idempotency.key_in(request(**changes), headers)


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_key_has_a_legal_kv_key_of_its_own(one: str, other: str) -> None:
    assert idempotency.store_key(one).isalnum()
    assert (idempotency.store_key(one) == idempotency.store_key(other)) == (one == other)


def test_the_same_content_has_the_same_fingerprint_in_every_form_of_json() -> None:
    bodies = [
        b'{"to":"a@example.com","subject":"Hi","html":"<p>Hi</p>","text":"Hi","tags":{"a":"1","b":"2"}}',
        b' {"tags":{"b":"2","a":"1"},"text":"H\\u0069","html":"<p>Hi<\\/p>","subject":"Hi","to":"a@example.com"}',
        (
            b'{"to":"x","to":"a@example.com","subject":"Hi","html":"<p>Hi</p>","text":"Hi","group_id":null,"from":"",'
            b'"tags":{"a":"1","b":"2"},"idempotency_key":"k","unknown":[1]}'
        ),
    ]
    prints = {idempotency.fingerprint(msgspec.json.decode(body, type=SendEmailRequest)) for body in bodies}
    assert len(prints) == 1


def test_the_fingerprint_of_a_request_is_the_same_in_every_version() -> None:
    canonical = (
        '{"from":"a@b.example","html":"<p>Hi</p>","subject":"Hé","tags":{"a":"b"},"text":"Hi","to":"a@example.com"}'
    )
    asked = request(**{"from": "a@b.example", "subject": "Hé", "tags": {"a": "b"}})
    assert idempotency.fingerprint(asked) == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "A@example.com"},
        {"subject": "Hi "},
        {"html": "<p>Hi</p>\n"},
        {"text": "hi"},
        {"group_id": "g"},
        {"from": "a@example.com"},
        {"from_display_name": "A"},
        {"reply_to": "a@example.com"},
        {"unsubscribe_url": "https://lfx.dev"},
        {"list_unsubscribe_url": "https://lfx.dev"},
        {"list_unsubscribe_post": True},
        {"tags": {"a": "b"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_change_of_any_field_changes_the_fingerprint(changes: dict[str, object]) -> None:
    assert idempotency.fingerprint(request(**changes)) != idempotency.fingerprint(request())


def test_every_field_of_a_request_except_the_key_counts() -> None:
    fields = set(SendEmailRequest.__struct_encode_fields__) - {"idempotency_key"}
    tried = {"to", "subject", "html", "text", "group_id", "from", "from_display_name", "reply_to"}
    assert fields == tried | {"unsubscribe_url", "list_unsubscribe_url", "list_unsubscribe_post", "tags"}


def test_the_content_is_compared_as_given_although_a_subject_is_cleaned() -> None:
    assert idempotency.fingerprint(request(subject="Hi\n")) != idempotency.fingerprint(request())


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (stored("sent"), ""),
        (stored("sent", age=80_000), ""),
        (stored("started", age=0), "request in progress"),
        (stored("started", age=-30), "request in progress"),
        (stored("started", age=48), "request in progress"),
        (stored("started", age=49), "delivery outcome unknown"),
        (stored("unknown"), "delivery outcome unknown"),
        (stored("sent", "other"), "idempotency key reused"),
        (stored("started", "other"), "idempotency key reused"),
        (stored("unknown", "other"), "idempotency key reused"),
    ],
)
def test_the_answer_to_a_repeat_depends_on_the_state_of_the_first(first: StoredKey, error: str) -> None:
    repeat = idempotency.answer(first, "same", now=NOW, longest_request=LONGEST)
    assert (repeat.email_id, repeat.group_id, repeat.error) == ("e", "g", error)

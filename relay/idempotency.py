# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the rules of idempotency keys: which requests are the same, what KV stores, and how a repeat is answered.

They follow draft-ietf-httpapi-idempotency-key-header: one key never sends two emails.
"""

from __future__ import annotations

import hashlib
from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from shared import contract

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

MAX_KEY_CHARACTERS: Final = 256

KeyState = Literal["started", "sent", "unknown"]

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Malformed(Exception):
    """The key does not have 1 to 256 characters, or is not UTF-8."""


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """The value that is stored under a key: the email that the key stands for, and its state.

    `started`: being sent, or the relay died before the outcome was known. `sent`: the mail server accepted it.
    `unknown`: the mail server did not answer.
    """

    fingerprint: str
    email_id: str
    group_id: str
    started_at: datetime
    state: KeyState = "started"


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request whose key is already used: what the first email has, unless `error` is set."""

    email_id: str
    group_id: str
    sent_at: datetime
    error: str = ""


def key_in(request: contract.SendEmailRequest, headers: Mapping[str, str] | None) -> str | None:
    """Return the key of a request, None if it has no key. The field wins over the header; header names ignore case.

    Raises:
        Malformed: the key cannot be stored.
    """
    key = request.idempotency_key or _header(headers)
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARACTERS and _is_utf_8(key)):
        raise Malformed
    return key


def store_key(key: str) -> str:
    """Return the KV key for any idempotency key: its SHA-256 in hexadecimal, which does not show the original."""
    return hashlib.sha256(key.encode()).hexdigest()


def fingerprint(request: contract.SendEmailRequest) -> str:
    """Return a digest of the content of a request; absent, null and empty fields count as the same.

    It is the SHA-256 of the fields that are set, as compact JSON in UTF-8, sorted by name.
    """
    fields = {name: value for name, value in msgspec.to_builtins(request).items() if value}
    fields.pop("idempotency_key", None)
    return hashlib.sha256(_encode_sorted(fields)).hexdigest()


def answer(stored: StoredKey, wanted: str, *, now: datetime, longest_request: timedelta) -> Repeat:
    """Return the answer to a repeat with the fingerprint `wanted`.

    After `longest_request` the relay that had the first request must have died.
    """
    return Repeat(
        email_id=stored.email_id,
        group_id=stored.group_id,
        sent_at=stored.started_at,
        error=_error(stored, wanted, now - longest_request),
    )


def _error(stored: StoredKey, wanted: str, oldest_running: datetime) -> str:
    if stored.fingerprint != wanted:
        return contract.IDEMPOTENCY_KEY_REUSED
    if stored.state == "sent":
        return ""
    if stored.state == "started" and stored.started_at >= oldest_running:
        return contract.REQUEST_IN_PROGRESS
    return contract.OUTCOME_UNKNOWN


def _header(headers: Mapping[str, str] | None) -> str | None:
    for name, value in (headers or {}).items():
        if name.lower() == contract.IDEMPOTENCY_KEY_HEADER.lower():
            return value
    return None


def _is_utf_8(text: str) -> bool:
    """Return whether the text can be encoded: header bytes that are not UTF-8 have become lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

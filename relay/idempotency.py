# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: what makes two requests the same, what is stored under their key, and what a repeat is answered.

The idea is that of draft-ietf-httpapi-idempotency-key-header; the promise is that one key never sends two mails.
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

State = Literal["started", "sent", "unknown"]

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Malformed(Exception):
    """The key has not 1 to 256 characters, or is not UTF-8."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored under a key: whose email it stands for, and how far that has come.

    `started`: under way, or its relay died. `sent`: the mail server has it. `unknown`: the mail server did not say.
    """

    fingerprint: str
    email_id: str
    group_id: str
    started_at: datetime
    state: State = "started"


def key_in(request: contract.SendEmailRequest, headers: Mapping[str, str] | None) -> str | None:
    """Return the key of a request, if it has one; its field counts before the header, whose case does not matter.

    Raises:
        Malformed: it has none that could be kept.
    """
    key = request.idempotency_key or _header(headers)
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARACTERS and _is_utf_8(key)):
        raise Malformed
    return key


def store_key(key: str) -> str:
    """Return the KV key, which holds any key and shows none."""
    return hashlib.sha256(key.encode()).hexdigest()


def fingerprint(request: contract.SendEmailRequest) -> str:
    """Return a digest of what is asked for, however it was written: absent, null and empty are the same.

    SHA-256 of the fields that are set, as compact JSON in UTF-8, sorted by name.
    """
    fields = {name: value for name, value in msgspec.to_builtins(request).items() if value}
    fields.pop("idempotency_key", None)
    return hashlib.sha256(_encode_sorted(fields)).hexdigest()


def answer(known: Claim, wanted: str, *, now: datetime, longest: timedelta) -> contract.SendEmailResponse | str:
    """Return the reply of the first request, or the error string for a repeat with the fingerprint `wanted`.

    `longest` is how long a request may be under way; after it the relay that had it must have died.
    """
    if known.fingerprint != wanted:
        return contract.IDEMPOTENCY_KEY_REUSED
    if known.state == "sent":
        return contract.SendEmailResponse(email_id=known.email_id, group_id=known.group_id)
    if known.state == "started" and now - known.started_at <= longest:
        return contract.REQUEST_IN_PROGRESS
    return contract.OUTCOME_UNKNOWN


def _header(headers: Mapping[str, str] | None) -> str | None:
    for name, value in (headers or {}).items():
        if name.lower() == contract.IDEMPOTENCY_KEY_HEADER.lower():
            return value
    return None


def _is_utf_8(text: str) -> bool:
    """Tell whether a text is what was sent; a header's bytes that are not UTF-8 have become lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

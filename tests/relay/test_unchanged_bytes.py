# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Callers who use no newer field see no difference: replies, records and messages have the bytes that they had before.

`unchanged_bytes.json` was written by the version before `outcome` and the aliases of `unsubscribe_url`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from relay import errors, idempotency, send_email_handler
from relay.idempotency import Repeat
from relay.send_email_handler import Options, SendEmailHandler, Steps
from shared import contract
from shared.errors import StoreUnavailable
from tests.relay.steps import POLICY, REQUEST, Keys, Mails, Store

if TYPE_CHECKING:
    from datetime import tzinfo

    from shared.contract import SendEmailRequest

BEFORE: Final = Path(__file__).with_name("unchanged_bytes.json")
NEW_ID: Final = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
AT: Final = datetime(2026, 11, 30, 1, 2, 3, 40_000, tzinfo=UTC)
OPTIONS: Final = Options(
    msgspec.structs.replace(POLICY, recipient_domains=()), configuration_set="lfx", send_retry_seconds=8.0
)
BASE: Final = {**REQUEST, "html": "<p>Hi</p>", "text": "Hi"}

REQUESTS: Final[dict[str, bytes | dict[str, Any]]] = {
    "required fields": {name: value for name, value in BASE.items() if name != "group_id"},
    "group": BASE,
    "escaped group": {**BASE, "group_id": "Fête 50 %/1"},
    "named recipient": {**BASE, "to": ' "Doe, Jane" <jane@example.com> '},
    "recipient with IDNA": {**BASE, "to": "Anna <anna@bücher.example>"},
    "sender": {**BASE, "from": "Team <team@lfx.linuxfoundation.org>", "reply_to": "Help <help@linuxfoundation.org>"},
    "display name": {**BASE, "from_display_name": " Ada  Lovelace, PhD "},
    "display name beyond ASCII": {**BASE, "from_display_name": "Zoë ☕"},
    "blank display name": {**BASE, "from_display_name": " "},
    "subject with outer and double blanks": {**BASE, "subject": " Two  blanks "},
    "blank subject": {**BASE, "subject": " "},
    "subject beyond ASCII": {**BASE, "subject": "Réunion à 10 h, café"},
    "subject with emoji and joiners": {**BASE, "subject": "\u200bFamily 👨‍👩‍👧 \u00a0\ufeff\u202e"},
    "subject like an encoded word": {**BASE, "subject": "=?utf-8?q?a=0D=0A?="},
    "long subject": {**BASE, "subject": "word " * 199 + "end"},
    "bodies": {**BASE, "html": "<p>é\r\n.\n</p>\0", "text": "From here\r\n\r\n" + "x" * 1200},
    "unsubscribe_url": {**BASE, "unsubscribe_url": "https://lfx.dev/u?é=%"},
    "tags": {**BASE, "tags": {"campaign": "spring_2025", "a": "b"}},
    "null fields": {**BASE, "from": None, "reply_to": "", "unsubscribe_url": None, "tags": {}, "other": [1]},
    "no object": b"[]",
    "wrong type": {**BASE, "subject": 1},
    "no subject": {**BASE, "subject": ""},
    "group with a line break": {**BASE, "group_id": "a\nb"},
    "recipient with a line break": {**BASE, "to": "Ada\r\nLovelace <a@example.com>"},
    "sender with a line break": {**BASE, "from": "Ada\nLovelace <a@lfx.linuxfoundation.org>"},
    "reply_to with NUL": {**BASE, "reply_to": "Ada\0 <a@linuxfoundation.org>"},
    "long recipient": {**BASE, "to": f"{'l' * 65}@example.com"},
    "foreign sender": {**BASE, "from": "a@evil.example"},
    "long display name": {**BASE, "from_display_name": "é" * 129},
    "foreign reply_to": {**BASE, "reply_to": "a@evil.example"},
    "longest subject + 1": {**BASE, "subject": "x" * 999},
    "unsubscribe_url without TLS": {**BASE, "unsubscribe_url": "http://lfx.dev/u"},
    "wrong tags": {**BASE, "tags": {"": ""}},
    "long key": {**BASE, "idempotency_key": "k" * 257},
}


class UnreadableList:
    """Cannot reach its bucket."""

    async def find(self, address: str) -> contract.Suppression | None:
        """Fail."""
        raise StoreUnavailable(address)


class OneEntry:
    """Has every address."""

    async def find(self, address: str) -> contract.Suppression | None:
        """Return its entry."""
        return contract.Suppression(address=address, reason="bounce", suppressed_at=AT)


class NoKeys(Keys):
    """Gives no request a key, but checks it."""

    async def begin(self, request: SendEmailRequest, *_: object, **__: object) -> None:  # type: ignore[override]
        """Check the key."""
        idempotency.key_in(request, None)


FAULTS: Final[dict[str, Steps]] = {
    "rejected": Steps(Mails(errors.Rejected("no such user", 550)), Store(), NoKeys()),
    "deferred": Steps(Mails(errors.Deferred("later", 451)), Store(), NoKeys()),
    "account refused": Steps(Mails(errors.AccountRefused("AUTH: no", 535)), Store(), NoKeys()),
    "uncertain": Steps(Mails(errors.Uncertain("no reply")), Store(), NoKeys()),
    "held back": Steps(Mails(errors.HeldBack("rate")), Store(), NoKeys()),
    "too many records": Steps(Mails(), Store(is_full=True), NoKeys()),
    "suppressed": Steps(Mails(), Store(), NoKeys(), OneEntry()),
    "suppression list unreadable": Steps(Mails(), Store(), NoKeys(), UnreadableList()),
    "repeat": Steps(Mails(), Store(), Keys(Repeat(email_id="e", group_id="g", sent_at=AT))),
    "in progress": Steps(
        Mails(), Store(), Keys(Repeat(email_id="e", group_id="g", sent_at=AT, error=contract.REQUEST_IN_PROGRESS))
    ),
    "unknown": Steps(
        Mails(), Store(), Keys(Repeat(email_id="e", group_id="g", sent_at=AT, error=contract.OUTCOME_UNKNOWN))
    ),
}
NOW_WITH_MORE_FIELDS: Final = {"rejected", "deferred", "account refused", "uncertain", "suppression list unreadable"}


class StoppedClock:
    """A clock that shows one time."""

    @staticmethod
    def now(_zone: tzinfo) -> datetime:
        """Return this time."""
        return AT


@pytest.fixture(autouse=True)
def same_ids_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and times are the same in each run."""
    monkeypatch.setattr(send_email_handler, "new_id", lambda: NEW_ID)
    monkeypatch.setattr(send_email_handler, "datetime", StoppedClock)


async def observed(request: bytes | dict[str, Any], steps: Steps) -> dict[str, Any]:
    """Return what caller, mail server and bucket get."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    reply = await SendEmailHandler(OPTIONS, steps)(body)
    mails = getattr(steps.deliver, "sent", [])
    return {
        "reply": reply.decode(),
        "mails": [[envelope.sender, envelope.recipient, message.decode("ascii")] for envelope, message in mails],
        "records": [msgspec.json.encode(one).decode() for one in getattr(steps.records, "records", [])],
    }


async def _all_observed() -> dict[str, Any]:
    """Return the content of the file: write it with the version that is to be compared."""
    found = {name: await observed(request, Steps(Mails(), Store(), NoKeys())) for name, request in REQUESTS.items()}
    return found | {name: await observed(BASE, steps) for name, steps in FAULTS.items()}


async def test_replies_records_and_messages_have_the_bytes_that_they_had_before() -> None:
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    now = await _all_observed()
    for name in NOW_WITH_MORE_FIELDS:
        start = before[name].pop("reply").removesuffix("}")
        assert now[name].pop("reply").startswith(f"{start},"), name
    assert now == before

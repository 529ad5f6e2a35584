# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The steps of a request, controlled by the test; and a request with the options of a handler. Asserts nothing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from relay.records.idempotency_store import DisabledIdempotencyStore
from relay.send_email_handler import Options, SendEmailHandler, Steps
from relay.submission import Policy
from shared.addresses import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay import errors
    from relay.envelope import Envelope
    from relay.idempotency import KeyState, Repeat
    from relay.send_email_handler import SuppressionList
    from shared.contract import EmailRecipientRecord, SendEmailRequest

POLICY: Final = Policy(
    sender=parse("noreply@lfx.linuxfoundation.org"),
    display_name="LFX Self Serve",
    from_domains=frozenset({"lfx.linuxfoundation.org"}),
    reply_to_domains=("linuxfoundation.org",),
    recipient_domains=("example.com",),
)
OPTIONS: Final = Options(POLICY, configuration_set="", send_retry_seconds=8.0)
REQUEST: Final = {
    "to": "anna@example.com",
    "subject": "Hi",
    "html": "<p>secret</p>",
    "text": "secret",
    "group_id": "g",
}


class Mails:
    """Accepts every email, or fails each with the same error."""

    event = "email.sent"

    def __init__(self, error: errors.DeliveryError | RuntimeError | None = None) -> None:
        self.sent: list[tuple[Envelope, bytes]] = []
        self._error = error

    async def __call__(self, envelope: Envelope, message: bytes, *, deadline: float, group: str) -> None:  # noqa: ARG002 - interface
        """Accept an email."""
        if self._error:
            raise self._error
        self.sent.append((envelope, message))


class Store:
    """Stores every record."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.records: list[EmailRecipientRecord] = []

    async def write(
        self,
        record: EmailRecipientRecord,
        *,
        deadline: float,  # noqa: ARG002 - interface
        again: bool = False,
    ) -> None:
        """Store a record; with `again` only where it is missing."""
        if not (again and any(one.email_id == record.email_id for one in self.records)):
            self.records.append(record)


class StuckStore(Store):
    """Never finishes a write."""

    async def write(self, record: EmailRecipientRecord, *, deadline: float, again: bool = False) -> None:
        """Begin to store a record."""
        await super().write(record, deadline=deadline, again=again)
        await asyncio.Event().wait()


class Keys:
    """Gives every request its key, or answers each as a repeat; notes how keys are settled."""

    def __init__(self, repeat: Repeat | None = None) -> None:
        self.settled: list[KeyState | None] = []
        self._repeat = repeat

    async def begin(
        self,
        request: SendEmailRequest,  # noqa: ARG002 - interface
        headers: Mapping[str, str] | None,  # noqa: ARG002
        *,
        email_id: str,  # noqa: ARG002
        group_id: str,  # noqa: ARG002
    ) -> Keys | Repeat:
        """Take the key."""
        return self._repeat or self

    async def settle(self, state: KeyState | None, *, deadline: float) -> None:  # noqa: ARG002
        """Note the state."""
        self.settled.append(state)


async def answer(
    mails: Mails,
    store: Store,
    request: bytes | dict[str, Any],
    keys: Keys | None = None,
    suppression_list: SuppressionList | None = None,
) -> dict[str, Any]:
    """Return the reply of a handler with these steps to one request."""
    steps = Steps(mails, store, keys or DisabledIdempotencyStore(), suppression_list)
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    reply: dict[str, Any] = json.loads(await SendEmailHandler(OPTIONS, steps)(data))
    return reply

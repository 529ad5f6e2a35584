# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Builds records and events for the tests of the tracker; nothing here asserts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shared.contract import EmailRecipientRecord, Failure
from tracker.events.ses_event import EngagementEvent

if TYPE_CHECKING:
    from tracker.events.ses_event import Kind

EMAIL = "550e8400-e29b-41d4-a716-446655440000"
GROUP = "invite-batch-abc123"
TRACKING_ID = f"{GROUP}/{EMAIL}"
TO = "reader@example.com"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FAILURES = ("bounce", "complaint", "reject")


def at(seconds: float) -> datetime:
    """Return the time so many seconds after the email was sent."""
    return AT + timedelta(seconds=seconds)


def record(**changes: Any) -> EmailRecipientRecord:
    """Return the record of an email without events, with the changes."""
    fields = {"email_id": EMAIL, "group_id": GROUP, "to": TO, "subject": "Your meeting", "sent_at": AT}
    return EmailRecipientRecord(**{**fields, **changes})


def stored(**fields: object) -> bytes:
    """Return the JSON of a record with any fields, as another service may write it."""
    known = {
        "email_id": EMAIL,
        "group_id": GROUP,
        "to": TO,
        "subject": "Your meeting",
        "sent_at": "2026-01-02T03:04:05Z",
    }
    return json.dumps({**known, **fields}).encode()


def event(kind: Kind, seconds: float = 0, event_id: str = "e1", **changes: Any) -> EngagementEvent:
    """Return an event of the email, so many seconds after it was sent."""
    fields = {"kind": kind, "email_id": EMAIL, "event_id": event_id, "at": at(seconds)}
    if kind in FAILURES:
        fields["failure"] = Failure(kind=kind)
    return EngagementEvent(**{**fields, **changes})

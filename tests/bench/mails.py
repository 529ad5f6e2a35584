# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Requests with 3 kB of html, records as the relay writes them, and SES events."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from shared import contract
from tests.stack import ses_events

if TYPE_CHECKING:
    from collections.abc import Sequence

_PARAGRAPH = "<p>Your talk <b>in the main hall</b> was moved by half an hour, please be there ten minutes before.</p>\n"
HTML = (_PARAGRAPH * 30)[:3000]
TEXT = "Your talk in the main hall was moved by half an hour.\n" * 5
RAW_MESSAGE = (f"Subject: Your talk\n\n{HTML}\n{TEXT}" + "x" * 700 + "\n.\n").replace("\n", "\r\n").encode()
SENT_AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)


def send_request(group_id: str | None) -> bytes:
    """Return the body of a request to send; without a group each email gets its own group."""
    request = contract.SendEmailRequest(
        to="reader@example.com", subject="Your talk was moved", html=HTML, text=TEXT, group_id=group_id
    )
    return msgspec.json.encode(request)


def new_ids(count: int) -> list[str]:
    """Return a number of email ids."""
    return [str(uuid.uuid4()) for _ in range(count)]


def record(email_id: str, group_id: str, to: str = "reader@example.com") -> bytes:
    """Return the record of an email that was just sent."""
    return msgspec.json.encode(
        contract.EmailRecipientRecord(
            email_id=email_id,
            group_id=group_id,
            to=to,
            subject="Your talk was moved",
            sent_at=SENT_AT,
        )
    )


def engagement(group_id: str, email_ids: Sequence[str]) -> list[str]:
    """Return three events for each email (delivery, open, click) as bodies of SQS messages, in no order."""
    kinds = (ses_events.delivery, ses_events.open_, ses_events.click)
    pairs = ((f"{group_id}/{email_id}", kind) for email_id in email_ids for kind in kinds)
    bodies = [ses_events.notification(kind(tracking_id, SENT_AT)) for tracking_id, kind in pairs]
    random.Random(1).shuffle(bodies)  # noqa: S311 - the same order in each run
    return bodies

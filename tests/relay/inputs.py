# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Builds settings, envelopes, emails and records for tests; asserts nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from relay.envelope import Envelope
from relay.settings import RelaySettings
from relay.smtp.connection import Connector
from shared.contract import EmailRecipientRecord

if TYPE_CHECKING:
    from tests.stack.scripted_smtp import ScriptedSmtp

ENVELOPE: Final = Envelope("noreply@lfx.linuxfoundation.org", "alice@example.com")
MAIL: Final = b"From: <noreply@lfx.linuxfoundation.org>\r\nSubject: x\r\n\r\nHello\r\n"


def settings(smtp: ScriptedSmtp, **changes: Any) -> RelaySettings:
    """Settings for a relay that sends to this server, with much time for each transaction."""
    known = {"smtp_host": "localhost", "smtp_port": smtp.port, "smtp_timeout_seconds": 10.0}
    return RelaySettings(**{**known, **changes})


def connector(smtp: ScriptedSmtp, **changes: Any) -> Connector:
    """Opens connections to this server."""
    return Connector(settings(smtp, **changes))


def mail(number: int) -> bytes:
    """An email with a number in its subject."""
    return MAIL.replace(b"Subject: x", b"Subject: %d" % number)


def numbers(smtp: ScriptedSmtp) -> list[int]:
    """The numbers of the emails that the server has accepted, in order."""
    return sorted(int(one.content.split(b"Subject: ")[1].split(b"\r\n")[0]) for one in smtp.mails)


def record(group_id: str = "g", email_id: str = "") -> EmailRecipientRecord:
    """The record of an email just sent."""
    return EmailRecipientRecord(
        email_id=email_id or str(uuid4()),
        group_id=group_id,
        to="alice@example.com",
        subject="Hello",
        sent_at=datetime.now(UTC),
    )

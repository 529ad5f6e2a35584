# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Plays SES: each mail that the SMTP server accepted gets its events in the queue."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.stack import ses_events

if TYPE_CHECKING:
    from tests.stack.received_mail import ReceivedMail
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

PAUSE_SECONDS = 0.05
OPENED_EVERY = 3
FAILED_EVERY = 10


class Ses:
    """Sends a delivery for each mail, opens for some and a bounce for others; `opens` counts them by email."""

    def __init__(self, smtp: SmtpServer, sqs: SqsEndpoint) -> None:
        self.opens: dict[str, int] = {}
        self.failed: dict[str, str] = {}  # email_id -> recipient
        self._smtp = smtp
        self._sqs = sqs
        self._reported = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Report the rest and end."""
        self._stopping.set()

    async def run(self) -> None:
        """Report mails as they come in, until `stop`."""
        while not self._stopping.is_set():
            self._report_new()
            await asyncio.sleep(PAUSE_SECONDS)
        self._report_new()

    def _report_new(self) -> None:
        for mail in self._smtp.mails[self._reported :]:
            self._reported += 1
            self._report(mail)

    def _report(self, mail: ReceivedMail) -> None:
        tracked, now, to = tracking_id(mail), datetime.now(UTC), mail.recipients[0]
        email_id = tracked.rpartition("/")[2]
        self._sqs.send(ses_events.notification(ses_events.delivery(tracked, now, to=to), f"{email_id}-d"))
        for number in range(self._reported % OPENED_EVERY):
            opened = ses_events.notification(ses_events.open_(tracked, now, to=to), f"{email_id}-o{number}")
            self._sqs.send(opened)
            self._sqs.send(opened)  # SQS delivers at least once
            self.opens[email_id] = number + 1
        if self._reported % FAILED_EVERY == 0:
            self._sqs.send(ses_events.notification(ses_events.bounce(tracked, now, to=to), f"{email_id}-b"))
            self.failed[email_id] = to


def tracking_id(mail: ReceivedMail) -> str:
    """Return the value of X-LFX-TRACKING-ID."""
    return _header(mail, b"X-LFX-TRACKING-ID")


def subject(mail: ReceivedMail) -> str:
    """Return the subject, by which a mail is known when its id is not."""
    return _header(mail, b"Subject")


def _header(mail: ReceivedMail, name: bytes) -> str:
    head = mail.content.partition(b"\r\n\r\n")[0].split(b"\r\n")
    [value] = [line.partition(b": ")[2] for line in head if line.startswith(name + b":")]
    return value.decode()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The SES events of the demo in the form of SNS: out of order, and one of them twice."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from tests.demo import mails
from tests.stack import ses_events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.demo.mails import Mail

CLICKED = "https://lfx.dev/minutes?m=1"


class Notification(NamedTuple):
    """One event; `body` is the SQS message, `message_id` the id of SNS, which identifies repeats."""

    kind: str
    mail: Mail
    at: datetime
    message_id: str
    body: str


class Script(NamedTuple):
    """The events in the order of the queue; the second part is sent when the first is applied."""

    before_delivery: tuple[Notification, ...]
    afterwards: tuple[Notification, ...]

    @property
    def repeated(self) -> Notification:
        """The event that is sent twice."""
        return self.before_delivery[0]

    @property
    def distinct(self) -> list[Notification]:
        """The events without the repeat."""
        return list(dict.fromkeys(self.before_delivery + self.afterwards))


def script(email_ids: Mapping[str, str], sent_at: datetime) -> Script:
    """Return the events of mails that were sent at this time; `email_ids` are by recipient."""

    def event(kind: str, mail: Mail, seconds: int, make: Callable[..., ses_events.Event]) -> Notification:
        at, message_id = sent_at + timedelta(seconds=seconds), str(uuid.uuid4())
        tracking_id = f"{mails.GROUP}/{email_ids[mail.to]}"
        body = ses_events.notification(make(tracking_id, at, to=mail.to), message_id)
        return Notification(kind, mail, at, message_id, body)

    opened = event("open", mails.PLAIN, 60, ses_events.open_)
    return Script(
        before_delivery=(
            opened,
            event("click", mails.PLAIN, 75, _click),
            event("open", mails.PLAIN, 3600, ses_events.open_),
            event("open", mails.EMOJI, 90, ses_events.open_),
        ),
        afterwards=(
            event("complaint", mails.NAMED, 300, ses_events.complaint),
            event("delivery", mails.NAMED, 3, ses_events.delivery),
            event("delivery", mails.PLAIN, 2, ses_events.delivery),
            opened,
            event("bounce", mails.LONG, 5, _bounce),
            event("delivery", mails.EMOJI, 2, ses_events.delivery),
        ),
    )


def _click(tracking_id: str, at: datetime, *, to: str) -> ses_events.Event:
    return ses_events.click(tracking_id, at, CLICKED, to=to)


def _bounce(tracking_id: str, at: datetime, *, to: str) -> ses_events.Event:
    return ses_events.bounce(tracking_id, at, diagnostic="smtp; 550 5.1.1 no such mailbox", to=to)

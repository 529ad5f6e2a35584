# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Publishes push events about emails. Best effort: a failure is logged, and nothing waits for a subscriber."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
import nats.errors
from msgspec import UNSET

from shared import contract
from tracker.events import engagement

if TYPE_CHECKING:
    from shared.nats.connection import Connection
    from tracker.events.ses_event import EngagementEvent

log = logging.getLogger(__name__)

SUBJECTS: Final = {
    "delivery": contract.EMAIL_DELIVERED_SUBJECT,
    "open": contract.EMAIL_OPENED_SUBJECT,
    "click": contract.EMAIL_LINK_CLICKED_SUBJECT,
    "bounce": contract.EMAIL_FAILED_SUBJECT,
    "complaint": contract.EMAIL_FAILED_SUBJECT,
    "reject": contract.EMAIL_FAILED_SUBJECT,
}

_CREDENTIALS = re.compile(r"//[^/]*@")
_encode = msgspec.json.Encoder().encode


class PushEvents:
    """Turns an event that was applied into a push event."""

    def __init__(self, connection: Connection) -> None:
        """Publish on `connection`."""
        self._connection = connection

    async def __call__(self, event: EngagementEvent, record: contract.EmailRecipientRecord) -> None:
        """Publish the event, except for a delay; `record` is the email's as the event left it."""
        push = _push(event, record)
        if push is None:
            return
        try:
            await self._connection.publish(SUBJECTS[event.kind], _encode(push))
        except nats.errors.Error as error:
            log.warning("event.unannounced", extra={"email_id": event.email_id, "error": repr(error)})


async def publish_nothing(_event: EngagementEvent, _record: contract.EmailRecipientRecord) -> None:
    """Do nothing, in place of `PushEvents`."""


def _push(event: EngagementEvent, record: contract.EmailRecipientRecord) -> msgspec.Struct | None:
    """Return the push event; None for a delay, which has no subject."""
    event = engagement.permitted(event, record.to)
    email_id, group_id, tags = record.email_id, record.group_id, record.tags
    match event.kind:
        case "delivery":
            return contract.EmailDeliveredEvent(email_id=email_id, group_id=group_id, delivered_at=event.at, tags=tags)
        case "open":
            return contract.EmailOpenedEvent(
                email_id=email_id, group_id=group_id, open_count=record.open_count, opened_at=event.at, tags=tags
            )
        case "click":
            return contract.EmailLinkClickedEvent(
                email_id=email_id,
                group_id=group_id,
                event_id=event.event_id,
                link=_bare(event.link),
                click_count=record.click_count,
                clicked_at=event.at,
                tags=tags,
            )
        case "bounce" | "complaint" | "reject":
            return contract.EmailFailedEvent(
                email_id=email_id,
                group_id=group_id,
                reason=event.kind,
                failed_at=event.at,
                failure=event.failure or UNSET,
                tags=tags,
            )
        case "delay":
            return None


def _bare(link: str) -> str:
    """Strip query and fragment, which may hold tokens, and credentials before the host."""
    try:
        parts = urlsplit(link)
    except ValueError:  # not a URL: strip from the first `?` or `#` on, and before an `@` of the host
        return _CREDENTIALS.sub("//", link.partition("?")[0].partition("#")[0], count=1)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Publishes push events about emails. Best effort: a failure is logged, and nothing waits for a subscriber."""

from __future__ import annotations

import logging
import re
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
import nats.errors
from msgspec import UNSET

from shared import contract
from shared.nats.inbox import HEADER_ROOM_BYTES
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

MAX_ID_CHARACTERS: Final = 64  # so that the headers fit into HEADER_ROOM_BYTES
_PLAIN: Final = re.compile(rf"[A-Za-z0-9_.~-]{{1,{MAX_ID_CHARACTERS}}}")

_CREDENTIALS = re.compile(r"//[^/]*@")
_encode = msgspec.json.Encoder().encode


class PushEvents:
    """Turns an event that was applied into a push event."""

    def __init__(self, connection: Connection) -> None:
        """Publish on `connection`."""
        self._connection = connection
        self.outcomes: Counter[str] = Counter(published=0, failed=0)

    async def __call__(self, event: EngagementEvent, record: contract.EmailRecipientRecord) -> None:
        """Publish the event if its kind has a subject; `record` is the email's as the event left it."""
        if event.kind not in SUBJECTS:
            return
        data = payload(event, record)
        try:
            if len(data) + HEADER_ROOM_BYTES > self._connection.max_payload:
                raise nats.errors.MaxPayloadError  # nats-py does not count the headers; the server would disconnect
            await self._connection.publish(SUBJECTS[event.kind], data, headers=headers(event))
        except nats.errors.Error as error:
            self.outcomes["failed"] += 1
            log.warning("event.unannounced", extra={"email_id": event.email_id, "error": repr(error)})
        else:
            self.outcomes["published"] += 1


async def publish_nothing(_event: EngagementEvent, _record: contract.EmailRecipientRecord) -> None:
    """Do nothing, in place of `PushEvents`."""


def payload(event: EngagementEvent, record: contract.EmailRecipientRecord) -> bytes:
    """Return the JSON of the push event."""
    return _encode(_push(event, record))


def headers(event: EngagementEvent) -> dict[str, str]:
    """Return the headers of the push event: an id that is the same whenever and by whichever tracker it is published.

    A stream drops a message whose id it has seen within its duplicate window.
    """
    return {contract.MESSAGE_ID_HEADER: f"{_part(event.email_id)}/{event.kind}/{_part(event.event_id)}"}


def _part(text: str) -> str:
    """Return an id as printable ASCII without `/`, at most MAX_ID_CHARACTERS long: UUIDs stay unchanged."""
    if _PLAIN.fullmatch(text):  # nearly always, and `quote` is slow
        return text
    part = quote(text, safe="", errors="surrogatepass")
    return part if len(part) <= MAX_ID_CHARACTERS else sha256(part.encode()).hexdigest()


def _push(event: EngagementEvent, record: contract.EmailRecipientRecord) -> msgspec.Struct:
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
            raise ValueError("a delay has no push event")


def _bare(link: str) -> str:
    """Strip query and fragment, which may hold tokens, and credentials before the host."""
    try:
        parts = urlsplit(link)
    except ValueError:  # not a URL: strip from the first `?` or `#` on, and before an `@` of the host
        return _CREDENTIALS.sub("//", link.partition("?")[0].partition("#")[0], count=1)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

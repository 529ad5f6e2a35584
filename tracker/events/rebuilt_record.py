# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: makes the record of an email from what SES says of the email in each of its events.

Source: the Amazon SES Developer Guide, "Contents of event notifications", the object `mail`.
"""

from __future__ import annotations

import re
from email.errors import MessageError
from email.header import decode_header, make_header
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from shared import addresses, group_index, tracking_id
from shared.contract import EmailRecipientRecord
from tracker.events import json_fields, ses_mail
from tracker.events.json_fields import get, listed, mapping, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tracker.events.ses_event import EngagementEvent

MAX_SUBJECT_BYTES: Final = 998  # as in a request
MAX_TAGS: Final = 10
OWN_TAGS: Final = frozenset({"email_id", "traceparent"})  # the relay adds them to those of the request

_TAG = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LINE_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")


def of_event(event: EngagementEvent) -> EmailRecipientRecord | None:
    """Return the record of an email without its events; None if the event does not name the group."""
    mail = event.mail
    group_id = _group_id(event)
    if not group_id:
        return None
    return EmailRecipientRecord(
        email_id=event.email_id,
        group_id=group_id,
        to=_cut(next(_recipients(mail), ""), addresses.MAX_FIELD_BYTES),
        subject=_cut(_subject(mail), MAX_SUBJECT_BYTES),
        sent_at=json_fields.time(get(mail, "timestamp")) or event.at,
        tags=_tags(mail) or UNSET,
    )


def _group_id(event: EngagementEvent) -> str:
    for value in ses_mail.headers(event.mail, tracking_id.HEADER):
        group_id = tracking_id.group_id_of(value)
        named = group_index.email_id_of(tracking_id.email_id_of(value))
        if named == event.email_id and group_id and group_index.is_valid(group_id):
            return group_id
    return ""


def _recipients(mail: Mapping[str, Any]) -> Iterator[str]:
    yield from ses_mail.destination(mail)
    yield from filter(None, map(text, listed(get(mapping(get(mail, "commonHeaders")), "to"))))
    yield from map(_decoded, ses_mail.headers(mail, "TO"))


def _subject(mail: Mapping[str, Any]) -> str:
    subject = text(get(mapping(get(mail, "commonHeaders")), "subject"))
    return _decoded(subject or next(ses_mail.headers(mail, "SUBJECT"), ""))


def _decoded(value: str) -> str:
    """Return the text of a header without line breaks and RFC 2047 encoding."""
    unfolded = _LINE_BREAK.sub(" ", value).strip()
    if "=?" not in unfolded:
        return unfolded
    try:
        return _LINE_BREAK.sub(" ", str(make_header(decode_header(unfolded)))).strip()
    except (LookupError, ValueError, MessageError):  # unknown charset or broken base64
        return unfolded


def _cut(value: str, max_bytes: int) -> str:
    return value.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def _tags(mail: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of the request; those of SES have a colon in their names."""
    tags: dict[str, str] = {}
    for name, value in ses_mail.tags(mail):
        if name not in OWN_TAGS and _TAG.fullmatch(name) and _TAG.fullmatch(value) and len(tags) < MAX_TAGS:
            tags[name] = value
    return tags

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: checks a request against the policy; the result is a submission (RFC 6409) or the error string of the reply."""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Final

import msgspec

from relay import header_text, unsubscribe_url
from shared import addresses, contract, group_index

if TYPE_CHECKING:
    from shared.addresses import Mailbox

MAX_SUBJECT_BYTES: Final = 998
MAX_DISPLAY_NAME_BYTES: Final = 256
MAX_TAGS: Final = 10
RESERVED_TAG: Final = "email_id"  # the tracker finds the record by this tag where SES leaves out the headers

_TAG = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The senders and recipients that the operator allows, and the defaults for fields that a caller leaves out."""

    sender: addresses.Mailbox
    display_name: str
    from_domains: frozenset[str]
    reply_to_domains: tuple[str, ...]
    recipient_domains: tuple[str, ...]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One email that may be sent. `to` is the recipient as the caller wrote it; `subject` is one line.

    With `one_click`, a mail program may unsubscribe with a POST to `unsubscribe_url` (RFC 8058).
    """

    email_id: str
    group_id: str
    sender: addresses.Mailbox
    recipient: addresses.Mailbox
    reply_to: addresses.Mailbox | None
    to: str
    subject: str
    text: str
    html: str
    unsubscribe_url: str = ""
    one_click: bool = True
    tags: Mapping[str, str] | None = None


class Refused(msgspec.Struct, frozen=True):
    """The request is refused; `reason` is the error string of the contract."""

    reason: str


class Filtered(msgspec.Struct, frozen=True):
    """Nothing is sent, and the caller sees success: the recipient is outside the allowlist of this environment."""

    recipient: addresses.Mailbox


class _Refusal(Exception):
    pass


def accept(
    request: contract.SendEmailRequest, policy: Policy, *, email_id: str, new_group_id: str
) -> Submission | Refused | Filtered:
    """Check a request; `email_id` becomes its id, and `new_group_id` its group if it does not name one."""
    to, html, text = request.to, request.html, request.text
    subject = header_text.one_line(request.subject or "")
    if not (to and subject and html and text):
        return Refused(contract.REQUIRED_FIELDS_MISSING)
    try:
        group_id = _group_id(request.group_id) or new_group_id
        recipient = _mailbox(to, contract.INVALID_TO, contract.TO_TOO_LONG)
        if policy.recipient_domains and not addresses.is_below(recipient, policy.recipient_domains):
            return Filtered(recipient)
        return Submission(
            email_id=email_id,
            group_id=group_id,
            sender=_sender(request, policy),
            recipient=recipient,
            reply_to=_reply_to(request.reply_to, policy),
            to=to,
            subject=_limited(subject, MAX_SUBJECT_BYTES, contract.SUBJECT_TOO_LONG),
            text=text,
            html=html,
            unsubscribe_url=_unsubscribe_url(request.unsubscribe_url or request.list_unsubscribe_url),
            one_click=not _is_without_one_click(request),
            tags=_tags(request.tags),
        )
    except _Refusal as refusal:
        return Refused(str(refusal))


def _group_id(given: str | None) -> str | None:
    if given and not group_index.is_valid(given):
        raise _Refusal(contract.INVALID_GROUP_ID)
    return given


def _sender(request: contract.SendEmailRequest, policy: Policy) -> Mailbox:
    sender = policy.sender
    if request.from_:
        sender = _mailbox(request.from_, contract.INVALID_FROM, contract.FROM_TOO_LONG)
        _require(addresses.is_listed(sender, policy.from_domains), contract.FROM_NOT_ALLOWED)
    given = header_text.one_line(request.from_display_name or "")
    name = _limited(given, MAX_DISPLAY_NAME_BYTES, contract.DISPLAY_NAME_TOO_LONG).strip()
    return addresses.Mailbox(sender.local_part, sender.domain, name or sender.name or policy.display_name)


def _reply_to(given: str | None, policy: Policy) -> Mailbox | None:
    if not given:
        return None
    mailbox = _mailbox(given, contract.INVALID_REPLY_TO, contract.REPLY_TO_TOO_LONG)
    _require(addresses.is_below(mailbox, policy.reply_to_domains), contract.REPLY_TO_NOT_ALLOWED)
    return mailbox


def _unsubscribe_url(given: str | None) -> str:
    if not given:
        return ""
    try:
        return unsubscribe_url.parse(given)
    except unsubscribe_url.Malformed:
        raise _Refusal(contract.INVALID_UNSUBSCRIBE_URL) from None


def _is_without_one_click(request: contract.SendEmailRequest) -> bool:
    """Return whether the alias names the URL, which allows a POST only with `list_unsubscribe_post`."""
    is_alias = bool(request.list_unsubscribe_url) and not request.unsubscribe_url
    return is_alias and not request.list_unsubscribe_post


def _tags(given: dict[str, str] | None) -> Mapping[str, str] | None:
    if not given:
        return None
    _require(len(given) <= MAX_TAGS and RESERVED_TAG not in given, contract.INVALID_TAGS)
    _require(all(_TAG.fullmatch(word) for pair in given.items() for word in pair), contract.INVALID_TAGS)
    return given


def _mailbox(given: str, invalid: str, too_long: str) -> Mailbox:
    try:
        return addresses.parse(given)
    except addresses.TooLong:
        raise _Refusal(too_long) from None
    except addresses.Malformed:
        raise _Refusal(invalid) from None


def _limited(given: str, max_bytes: int, too_long: str) -> str:
    _require(len(given.encode()) <= max_bytes, too_long)
    return given


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not condition:
        raise _Refusal(otherwise)

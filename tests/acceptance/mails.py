# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Received mails, read with Python's own library, which the relay does not use."""

from __future__ import annotations

import email
import email.policy
import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from email.headerregistry import AddressHeader
    from email.message import EmailMessage

    from tests.stack.received_mail import ReceivedMail

Mailboxes = list[tuple[str, str]]


class Content(NamedTuple):
    """The visible content of a mail; mailboxes as name and address."""

    sender: Mailboxes
    to: Mailboxes
    reply_to: Mailboxes
    subject: str
    text: bytes
    html: bytes


def content(mail: ReceivedMail) -> Content:
    """Read a mail."""
    message = parsed(mail)
    text, html = message.iter_parts()
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    return Content(
        sender=_mailboxes(message, "From"),
        to=_mailboxes(message, "To"),
        reply_to=_mailboxes(message, "Reply-To"),
        subject=str(message["Subject"]),
        text=_body(text),
        html=_body(html),
    )


def parsed(mail: ReceivedMail) -> EmailMessage:
    """Read a mail's structure."""
    return email.message_from_bytes(mail.content, policy=email.policy.default)


def header_lines(mail: ReceivedMail) -> list[bytes]:
    """Return the header lines of a mail as sent on the wire; folded lines are separate."""
    return mail.content.partition(b"\r\n\r\n")[0].split(b"\r\n")


def tracking_id(mail: ReceivedMail) -> str:
    """Return the value of X-LFX-TRACKING-ID, which is one line; without a parser, as tests read hundreds of mails."""
    [value] = [line.partition(b": ")[2] for line in header_lines(mail) if line.startswith(b"X-LFX-TRACKING-ID:")]
    return value.decode()


def email_id(mail: ReceivedMail) -> str:
    """Return the email id of a mail."""
    return tracking_id(mail).rpartition("/")[2]


def is_safe_on_the_wire(mail: ReceivedMail) -> bool:
    """Return whether a mail is ASCII in lines of at most 989 bytes, without a lone CR or LF and without NUL."""
    lines = mail.content.split(b"\r\n")
    longest = max(map(len, lines))
    return longest <= 989 and mail.content.isascii() and not re.search(rb"[\r\n\0]", b"".join(lines))


def _mailboxes(message: EmailMessage, name: str) -> Mailboxes:
    headers = cast("list[AddressHeader]", message.get_all(name, []))
    return [(address.display_name, address.addr_spec) for header in headers for address in header.addresses]


def _body(part: Any) -> bytes:
    return bytes(part.get_payload(decode=True))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The checks of sending: the replies, and the mails at the SMTP server."""

from __future__ import annotations

import email.policy
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from shared import contract
from tests.demo import mails, stack
from tests.demo.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from email.headerregistry import AddressHeader
    from email.message import EmailMessage

    from tests.demo.mails import Mail
    from tests.stack.received_mail import ReceivedMail

MAX_LINE_BYTES = 989  # sendmail breaks longer ones
SENDER = "noreply@lfx.linuxfoundation.org"
DISPLAY_NAME = "LFX Self Serve"
EVENTS_TEAM = ("Events Team", "events@linuxfoundation.org")
ACCEPTED = tuple(mail for mail in mails.ALL if mail is not mails.REFUSED)


Mailboxes = list[tuple[str, str]]
"""Display names and addresses."""


class Answer(NamedTuple):
    """The reply to one mail's request."""

    mail: Mail
    reply: bytes

    @property
    def decoded(self) -> dict[str, Any]:
        """The reply as JSON."""
        return msgspec.json.decode(self.reply, type=dict[str, Any])

    @property
    def email_id(self) -> str:
        """The id of the mail; empty if it was not accepted."""
        return str(self.decoded.get("email_id", ""))


class Content(NamedTuple):
    """The visible content of a mail."""

    sender: Mailboxes
    reply_to: Mailboxes
    to: Mailboxes
    subject: str
    text: str
    html: str


def of_replies(answers: Sequence[Answer]) -> Iterable[Check]:
    """All mails except one are accepted."""
    accepted = [answer for answer in answers if answer.decoded.get("group_id") == mails.GROUP and answer.email_id]
    yield Check(
        f"{len(ACCEPTED)} of {len(answers)} are accepted, each with its own email_id",
        ([mail.to for mail in ACCEPTED], len(ACCEPTED)),
        ([answer.mail.to for answer in accepted], len({answer.email_id for answer in accepted})),
    )
    refused = next(answer for answer in answers if answer.mail is mails.REFUSED)
    yield Check(
        f'the reply for the refused one is "{contract.DELIVERY_FAILED}", not sent',
        (contract.DELIVERY_FAILED, "not_sent"),
        (refused.decoded.get("error"), refused.decoded.get("outcome")),
    )


def of_mails(received: Sequence[ReceivedMail], email_ids: Mapping[str, str]) -> Iterable[Check]:
    """Each accepted mail arrived once, unchanged and with its headers."""
    yield Check(
        "each accepted mail arrived once, over TLS and after AUTH",
        [((mail.to,), True, stack.USERNAME) for mail in ACCEPTED],
        [(mail.recipients, mail.tls, mail.authenticated_as) for mail in received],
    )
    yield Check(
        "each has exactly the addresses, subject, text and html of its request",
        [_sent(mail) for mail in ACCEPTED],
        [_content(mail) for mail in received],
    )
    longest = max((len(line) for mail in received for line in mail.content.split(b"\r\n")), default=0)
    yield Check(
        f"all lines are ASCII and at most {MAX_LINE_BYTES} bytes long; the longest has {longest}",
        (True, True),
        (longest <= MAX_LINE_BYTES, all(mail.content.isascii() for mail in received)),
    )
    yield Check(
        "each has the headers that SES and the tracker need",
        [_sent_tracking(email_ids[mail.to]) for mail in ACCEPTED],
        [_tracking(mail) for mail in received],
    )


def _sent(mail: Mail) -> Content:
    request = mail.request
    return Content(
        sender=[(request.from_display_name or DISPLAY_NAME, SENDER)],
        reply_to=[EVENTS_TEAM] if request.reply_to else [],
        to=[("", mail.to)],
        subject=mail.subject,
        text=request.text or "",
        html=request.html or "",
    )


def _content(mail: ReceivedMail) -> Content:
    message = parsed(mail)
    return Content(
        sender=_mailboxes(message, "From"),
        reply_to=_mailboxes(message, "Reply-To"),
        to=_mailboxes(message, "To"),
        subject=str(message["Subject"]),
        text=_body(message, "plain"),
        html=_body(message, "html"),
    )


def parsed(mail: ReceivedMail) -> EmailMessage:
    """Read a mail with Python's own library, which the relay does not use."""
    return email.message_from_bytes(mail.content, policy=email.policy.default)


def _mailboxes(message: EmailMessage, name: str) -> Mailboxes:
    headers = cast("list[AddressHeader]", message.get_all(name, []))
    return [(address.display_name, address.addr_spec) for header in headers for address in header.addresses]


def _body(message: EmailMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    return str(part.get_content()) if part else ""


def _sent_tracking(email_id: str) -> dict[str, str]:
    return {
        "X-LFX-TRACKING-ID": f"{mails.GROUP}/{email_id}",
        "X-SES-CONFIGURATION-SET": stack.CONFIGURATION_SET,
        "X-SES-MESSAGE-TAGS": f"email_id={email_id}",
    }


def _tracking(mail: ReceivedMail) -> dict[str, str]:
    message = parsed(mail)
    return {name: str(value) for name, value in message.items() if name.upper().startswith("X-")}

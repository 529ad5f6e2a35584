# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The five emails of the demo, all of one group."""

from __future__ import annotations

from typing import NamedTuple

from shared.contract import SendEmailRequest

GROUP = "summit"
UNKNOWN = "nobody@example.com"
REFUSAL = "550 5.1.1 no such user"
LINK = "https://lfx.example.org/unsubscribe?token=".ljust(3000, "x")


class Mail(NamedTuple):
    """A request and its description."""

    about: str
    request: SendEmailRequest

    @property
    def to(self) -> str:
        """The recipient."""
        return self.request.to or ""

    @property
    def subject(self) -> str:
        """The subject."""
        return self.request.subject or ""


PLAIN = Mail(
    "a plain one",
    SendEmailRequest(
        group_id=GROUP,
        to="ada@example.com",
        subject="Minutes of the first meeting",
        text="Hello Ada,\n\nthe minutes are at https://lfx.example.org/minutes.\n",
        html='<p>Hello Ada,</p>\n<p>the <a href="https://lfx.example.org/minutes">minutes</a> are online.</p>\n',
    ),
)
EMOJI = Mail(
    "emoji in subject and body",
    SendEmailRequest(
        group_id=GROUP,
        to="grace@example.com",
        subject="🎉 Your talk in 東京 is accepted",
        text="Hello Grace 👋\n\nyour talk is accepted. See you at the summit in 東京!\n",
        html="<h1>Hello Grace 👋</h1>\n<p>Your talk is <b>accepted</b>. See you at the summit in 東京! 🎉</p>\n",
    ),
)
LONG = Mail(
    f"{len(LINK):,} characters of link in one line of html",
    SendEmailRequest(
        group_id=GROUP,
        to="alan@example.com",
        subject="News of the week",
        text=f"The news are at {LINK}",
        html="<p>" + "All the news of the week. " * 400 + f'<a href="{LINK}">Unsubscribe</a></p>',
    ),
)
NAMED = Mail(
    "a display name and a reply_to",
    SendEmailRequest(
        group_id=GROUP,
        to="margaret@example.com",
        subject="Your ticket",
        text="Your ticket: 4711.\nAnswer this mail if you cannot come.\n",
        html="<p>Your ticket: <b>4711</b>.</p>\n<p>Answer this mail if you cannot come.</p>\n",
        from_display_name="Zoë, LFX Events",
        reply_to="Events Team <events@linuxfoundation.org>",
    ),
)
REFUSED = Mail(
    "to an address that the SMTP server refuses with 550",
    SendEmailRequest(
        group_id=GROUP,
        to=UNKNOWN,
        subject="Are you there?",
        text="Are you there?\n",
        html="<p>Are you there?</p>\n",
    ),
)
ALL = (PLAIN, EMOJI, LONG, NAMED, REFUSED)

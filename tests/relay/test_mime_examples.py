# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Single messages, read back with the `email` library of Python."""

from __future__ import annotations

import email
import email.utils
from datetime import UTC, datetime
from email.policy import default
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest

from relay import mime
from shared import addresses
from shared.addresses import Mailbox
from tests.relay.messages import (
    EMAIL_ID,
    FAMILY,
    SUBMISSION,
    URL,
    bodies_of,
    build,
    mailboxes_of,
    physical_lines,
    raw_lines,
    subject_of,
    unfolded,
    without_blanks,
)

if TYPE_CHECKING:
    from email.message import Message


def test_an_example_mail() -> None:
    reply_to = Mailbox("help", "linuxfoundation.org", "Help")
    assert build("lfx", reply_to=reply_to, text="Hi\r\n", html="<p>é</p>").decode() == (
        "From: LFX Self Serve <noreply@lfx.linuxfoundation.org>\r\n"
        "To: user@example.com\r\n"
        "Subject: Hi\r\n"
        "Date: Sun, 05 Jan 2025 03:04:05 +0000\r\n"
        f"Message-ID: <{EMAIL_ID}@lfx.linuxfoundation.org>\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/alternative; boundary="=_{EMAIL_ID}"\r\n'
        f"X-LFX-TRACKING-ID: invite-batch-abc123/{EMAIL_ID}\r\n"
        "Reply-To: Help <help@linuxfoundation.org>\r\n"
        "X-SES-CONFIGURATION-SET: lfx\r\n"
        f"X-SES-MESSAGE-TAGS: email_id={EMAIL_ID}\r\n"
        f"\r\n--=_{EMAIL_ID}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "Hi\r\n"
        f"\r\n--=_{EMAIL_ID}\r\n"
        "Content-Type: text/html; charset=utf-8\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        "\r\n"
        "PHA+w6k8L3A+"
        f"\r\n--=_{EMAIL_ID}--\r\n"
    )


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("Hi", "7bit"),
        ("Hi\r\nthere\r\n", "7bit"),
        ("x" * 988, "7bit"),
        ("." * 988, "7bit"),
        ("x" * 989, "quoted-printable"),
        (" \t~", "7bit"),
        ("\r\n.\r\n..", "7bit"),
        ("x" * 999, "quoted-printable"),
        ("Hi\n", "quoted-printable"),
        ("x" * 75 + "\n", "quoted-printable"),
        ("x" * 76 + "\n", "quoted-printable"),
        ("é" * 3 + "x" * 58 + "\n", "base64"),
        ("Hi\r", "quoted-printable"),
        ("Grüße aus dem Süden, sagt sie zum Schluss", "quoted-printable"),
        ("日本語", "base64"),
        ("\0", "base64"),
        ("From me", "base64"),
        ("a\r\nFrom me", "base64"),
        ("a=_b", "quoted-printable"),
    ],
    ids=lambda it: it[:12],
)
def test_the_transfer_encoding_is_the_cheapest_that_keeps_every_byte(content: str, encoding: str) -> None:
    message = build(text=content)
    parts: Any = email.message_from_bytes(message).get_payload()
    assert parts[0]["Content-Transfer-Encoding"] == encoding
    assert bodies_of(message)[0][1] == content.encode()


def test_no_line_looks_like_the_separator_of_a_mailbox_file() -> None:
    """A mail server may put a `>` before such a line, so each place of a soft line break is tried."""
    for before in range(76):
        content = "x" * before + "From me " * 20 + "\n"
        message = build(text=content)
        assert not any(line.startswith(b"From ") for line in physical_lines(message))
        assert bodies_of(message)[0][1] == content.encode()


@pytest.mark.parametrize("end", ["\n", "=", "==", "\r", " ", " \n", "\t\n=", "\r\n.\n"])
def test_plain_text_is_quoted_without_cutting_an_escape_or_ending_a_line_with_a_blank(end: str) -> None:
    for before in range(65, 78):
        content = "\n" + "x" * before + end
        message = build(text=content)
        assert bodies_of(message)[0][1] == content.encode()
        quoted = message.split(b"quoted-printable\r\n\r\n")[1].partition(b"\r\n--=_")[0].split(b"\r\n")
        assert all(len(line) <= 76 and not line.endswith((b" ", b"\t")) for line in quoted)


@pytest.mark.parametrize(
    "name",
    [
        'Doe, Jane (LFX) "J" <x@y>; a@b',
        "Doe, Jane",
        'a"b',
        "a\\",
        '\\"',
        "a;b:c",
        "(not a comment)",
        "<a@b.example>",
        "a@b.example",
        "undisclosed-recipients:;",
        "J. R. Doe",
        "=?utf-8?q?a?=",
        "=?x?=",
        "Änna, <x@y>",
        "a  b",
        "\u202egnp.exe",
    ],
)
def test_a_display_name_never_becomes_a_second_mailbox(name: str) -> None:
    mailbox = Mailbox("noreply", "lfx.linuxfoundation.org", name)
    message = build(sender=mailbox, recipient=mailbox, reply_to=mailbox)
    for header in ("From", "To", "Reply-To"):
        assert mailboxes_of(message, header) == [(name, "noreply@lfx.linuxfoundation.org")]
        read: Any = email.message_from_bytes(message, policy=default)[header]
        [found] = read.addresses
        assert without_blanks(found.display_name) == without_blanks(name)
        assert found.addr_spec == "noreply@lfx.linuxfoundation.org"


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("Hëllo " + "word " * 40, id="long with trailing blank"),
        pytest.param("é" * 300, id="without blanks"),
        pytest.param(FAMILY * 40, id="joined emoji"),
        pytest.param("two  blanks", id="two blanks"),
        pytest.param("é  é", id="two blanks between letters that are not ASCII"),
        pytest.param("word " * 40 + "end", id="ASCII"),
        pytest.param("word  " * 40 + "end", id="ASCII with two blanks at every joint"),
        pytest.param("x" * 80 + " " + "y" * 80, id="long words"),
        pytest.param(" leading", id="leading blank"),
        pytest.param("trailing ", id="trailing blank"),
        pytest.param("a\tb", id="tab"),
    ],
)
def test_folding_neither_adds_nor_loses_a_blank(subject: str) -> None:
    message = build(subject=subject)
    assert subject_of(message) == subject
    assert email.message_from_bytes(message, policy=default)["Subject"] == subject


@pytest.mark.parametrize(
    "html",
    [
        f'<a href="https://lfx.dev/?{"q" * 3000}">x</a>',
        f'<a href="https://lfx.dev/?{"ü" * 3000}">x</a>',
        "x" * 988 + "\r\n" + "y" * 989,
        "<p>\n" * 1000,
    ],
)
def test_a_long_line_is_not_broken(html: str) -> None:
    message = build(html=html)
    assert bodies_of(message)[1] == ("text/html", html.encode())
    assert max(map(len, physical_lines(message))) <= 989


@pytest.mark.parametrize(
    "text",
    [
        "a\n.\nb\r\n..c\rd",
        "é\r\n" + "b" * 100,
        ".",
        "\r\n.\r\n",
        "a\r.\rb",
        "\n.\n",
        ".\r",
        "a\r\n.\r\nMAIL FROM:<x@evil.example>\r\n",
    ],
)
def test_line_ends_and_leading_dots_are_kept_and_the_wire_has_only_crlf(text: str) -> None:
    message = build(text=text)
    assert bodies_of(message)[0] == ("text/plain", text.encode())
    assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")


@pytest.mark.parametrize("html", ["<p>a\0b</p>", "\0", "\0" * 1000, "a" * 100 + "\0"])
def test_a_nul_does_not_cut_the_body_and_is_not_on_the_wire(html: str) -> None:
    message = build(html=html)
    assert bodies_of(message)[1] == ("text/html", html.encode())
    assert b"\0" not in message


def test_the_domain_of_a_header_is_punycode() -> None:
    message = build(recipient=addresses.parse("Anna <anna@bücher.example>"))
    assert raw_lines(message, "To") == ["Anna <anna@xn--bcher-kva.example>"]


@pytest.mark.parametrize(
    ("now", "date"),
    [
        (datetime(2025, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC), "Fri, 28 Feb 2025 23:59:59 +0000"),
        (datetime(2024, 12, 1, tzinfo=UTC), "Sun, 01 Dec 2024 00:00:00 +0000"),
    ],
)
def test_the_date_is_in_english_and_utc(now: datetime, date: str) -> None:
    message = mime.build(SUBMISSION, configuration_set="", now=now)
    assert raw_lines(message, "Date") == [date]
    assert parsedate_to_datetime(date) == now.replace(microsecond=0)


def test_the_date_is_read_back_as_the_same_second_in_every_month() -> None:
    for month in range(1, 13):
        now = datetime(2025, month, month, month, tzinfo=UTC)
        assert parsedate_to_datetime(unfolded(mime.build(SUBMISSION, configuration_set="", now=now), "Date")) == now


def structure(message: Message) -> list[str]:
    return [part.get_content_type() for part in message.walk()]


def test_the_text_comes_before_the_html() -> None:
    assert structure(email.message_from_bytes(build())) == ["multipart/alternative", "text/plain", "text/html"]


@pytest.mark.parametrize("text", ["\u00e9\r\n", "a \r\n\r\n\u00e9\t\r\nb", "é" + "x" * 200 + "\r\n.\r\n", "\r\né"])
def test_text_whose_line_ends_are_all_crlf_is_quoted_without_encoding_them(text: str) -> None:
    """One mail program makes CR CR LF of an encoded line end (`=0D=0A`)."""
    message = build(text=text + "x" * 40)
    assert b"=0D" not in message
    assert b"=0A" not in message
    assert bodies_of(message)[0] == ("text/plain", (text + "x" * 40).encode())


def test_without_one_click_only_the_url_is_sent() -> None:
    message = email.message_from_bytes(build(unsubscribe_url=URL, one_click=False))
    assert message["List-Unsubscribe"] == f"<{URL}>"
    assert "List-Unsubscribe-Post" not in message

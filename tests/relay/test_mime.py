# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Properties of every message, read back with the `email` library of Python, which is not used to write it."""

from __future__ import annotations

import email
import email.utils
from collections import Counter
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, default
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st

from relay import mime
from shared.addresses import Mailbox
from tests.relay.messages import (
    EMAIL_ID,
    LONG_URL,
    NOW,
    PROPERTY,
    bodies_of,
    build,
    decoded,
    encoded_words,
    group_ids,
    mailboxes_of,
    names,
    physical_lines,
    raw_lines,
    subject_of,
    subjects,
    submissions,
    without_blanks,
)

if TYPE_CHECKING:
    from relay.submission import Submission


@PROPERTY
@given(submissions)
def test_bodies_are_read_back_byte_for_byte_text_first(submission: Submission) -> None:
    message = mime.build(submission, configuration_set="", now=NOW)
    assert bodies_of(message) == [("text/plain", submission.text.encode()), ("text/html", submission.html.encode())]


@PROPERTY
@given(submissions)
def test_bodies_are_read_back_as_text_under_the_newer_policy_too(submission: Submission) -> None:
    message: Any = email.message_from_bytes(mime.build(submission, configuration_set="", now=NOW), policy=default)
    assert message.get_body(("plain",)).get_content() == submission.text
    assert message.get_body(("html",)).get_content() == submission.html
    assert [part.defects for part in message.walk()] == [[], [], []]


@PROPERTY
@given(submissions)
def test_unsubscribe_url_and_tags_are_read_back_exactly(submission: Submission) -> None:
    message: Any = email.message_from_bytes(mime.build(submission, configuration_set="set", now=NOW), policy=default)
    url, tags = submission.unsubscribe_url, submission.tags or {}
    assert message.get_all("List-Unsubscribe", []) == ([f"<{url}>"] if url else [])
    assert message.get_all("List-Unsubscribe-Post", []) == (["List-Unsubscribe=One-Click"] if url else [])
    [sent] = message.get_all("X-SES-MESSAGE-TAGS")
    assert sent == ", ".join(f"{name}={value}" for name, value in {"email_id": EMAIL_ID, **tags}.items())


def test_an_unsubscribe_url_is_never_folded_and_tags_only_at_commas() -> None:
    many = {f"{number}" * 128: "x" * 128 for number in range(10)}
    message = build("set", unsubscribe_url=LONG_URL, tags=many)
    assert raw_lines(message, "List-Unsubscribe") == [f"<{LONG_URL}>"]
    assert raw_lines(message, "X-SES-MESSAGE-TAGS") == [
        f"email_id={EMAIL_ID},",
        *(f" {name}={'x' * 128}," for name in list(many)[:-1]),
        f" {'9' * 128}={'x' * 128}",
    ]
    assert raw_lines(build("set", tags={"a": "b", "c": "d"}), "X-SES-MESSAGE-TAGS") == [
        f"email_id={EMAIL_ID}, a=b, c=d"
    ]


def test_without_a_configuration_set_tags_are_not_sent() -> None:
    assert build(tags={"a": "b"}) == build()


@PROPERTY
@given(subjects)
@example("a" * 998)
@example("é" * 499)
@example("😀" * 249)
@example("a " * 498 + "a")
def test_the_subject_is_read_back_exactly(subject: str) -> None:
    message = build(subject=subject)
    assert subject_of(message) == subject
    assert email.message_from_bytes(message, policy=default)["Subject"] == subject


@PROPERTY
@given(names)
@example("a" * 256)
@example("é" * 128)
@example('"' * 256)
@example("\\")
def test_the_display_name_is_read_back_exactly_with_one_mailbox(name: str) -> None:
    message = build(sender=Mailbox("noreply", "lfx.linuxfoundation.org", name))
    assert mailboxes_of(message, "From") == [(name, "noreply@lfx.linuxfoundation.org")]
    header: Any = email.message_from_bytes(message, policy=default)["From"]
    [mailbox] = header.addresses
    assert mailbox.addr_spec == "noreply@lfx.linuxfoundation.org"
    assert without_blanks(mailbox.display_name) == without_blanks(name)  # that policy puts blanks between encoded words


@PROPERTY
@given(submissions)
def test_each_address_header_holds_exactly_its_one_mailbox(submission: Submission) -> None:
    message = mime.build(submission, configuration_set="", now=NOW)
    for name, mailbox in (("From", submission.sender), ("To", submission.recipient), ("Reply-To", submission.reply_to)):
        if mailbox:
            assert mailboxes_of(message, name) == [(mailbox.name, mailbox.address)]


@PROPERTY
@given(submissions, st.sampled_from(["", "configuration"]))
def test_the_wire_is_7_bit_with_crlf_lines_of_at_most_989_bytes(submission: Submission, configuration_set: str) -> None:
    message = mime.build(submission, configuration_set=configuration_set, now=NOW)
    assert message.endswith(b"\r\n")
    assert message.isascii()
    for line in physical_lines(message):
        assert len(line) + line.startswith(b".") <= 989
        assert b"\r" not in line
        assert b"\n" not in line
        assert b"\0" not in line
        assert not line.startswith(b"From ")


@PROPERTY
@given(submissions)
def test_encoded_lines_are_at_most_76_characters_long(submission: Submission) -> None:
    """RFC 2045, 6.7 and 6.8."""
    parts: Any = email.message_from_bytes(mime.build(submission, configuration_set="", now=NOW)).get_payload()
    for part in parts:
        if part["Content-Transfer-Encoding"] != "7bit":
            assert max(map(len, part.get_payload().split("\r\n"))) <= 76


@PROPERTY
@given(submissions, st.sampled_from(["", "configuration"]))
def test_each_header_is_there_once_and_there_is_no_other(submission: Submission, configuration_set: str) -> None:
    message = email.message_from_bytes(mime.build(submission, configuration_set=configuration_set, now=NOW))
    expected = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "X-LFX-TRACKING-ID"]
    expected += ["Reply-To"] if submission.reply_to else []
    expected += ["List-Unsubscribe", "List-Unsubscribe-Post"] if submission.unsubscribe_url else []
    expected += ["X-SES-CONFIGURATION-SET", "X-SES-MESSAGE-TAGS"] if configuration_set else []
    assert Counter(message.keys()) == Counter(expected)
    parts: Any = message.get_payload()
    assert [part.keys() for part in parts] == [["Content-Type", "Content-Transfer-Encoding"]] * 2


@PROPERTY
@given(subjects, names)
def test_no_encoded_word_splits_a_character_or_is_too_long(subject: str, name: str) -> None:
    message = build(subject=subject, sender=Mailbox("noreply", "lfx.linuxfoundation.org", name))
    for header, text in (("Subject", subject), ("From", name)):
        words = encoded_words(message, header)
        assert "".join(decoded(word) for word in words) in ("", text)
        assert all(len(word) <= 75 for word in words)
        if words:
            assert all(len(f"{header}: {line}") <= 76 for line in raw_lines(message, header)[:1])
            assert all(len(line) <= 76 for line in raw_lines(message, header)[1:] if "@" not in line)


@PROPERTY
@given(group_ids)
@example("g" * 22)
@example("g" * 23)
@example("g" * 41)
@example("g" * 255)
@example("\x01" * 255)
def test_the_tracking_header_is_one_line(group_id: str) -> None:
    message = build(group_id=group_id)
    [line] = raw_lines(message, "X-LFX-TRACKING-ID")
    assert line.endswith(f"/{EMAIL_ID}")
    assert " " not in line
    if group_id.isascii() and group_id.isprintable() and not set(group_id) & {" ", "%"}:
        assert line == f"{group_id}/{EMAIL_ID}"


tame_lines = (
    st.lists(st.text("abcXYé😀.,'", min_size=1, max_size=8), min_size=1, max_size=4)
    .map(" ".join)
    .filter(lambda line: len(line.encode()) <= 40)
)
tame_bodies = st.lists(st.text("ab<>/='. éü日😀", max_size=200), min_size=1, max_size=20).map(
    lambda them: "".join(f"{line}\n" for line in them)
)


@PROPERTY
@given(tame_lines, tame_lines, tame_bodies, tame_bodies)
def test_a_mail_written_by_the_library_is_read_back_the_same(subject: str, name: str, text: str, html: str) -> None:
    """Only for lines that need no folding, with single blanks: the library changes others."""
    library = EmailMessage(policy=SMTP)
    library["Subject"] = subject
    library["From"] = Address(name, "noreply", "lfx.linuxfoundation.org")
    library["To"] = "user@example.com"
    library.set_content(text)
    library.add_alternative(html, subtype="html")
    sender = Mailbox("noreply", "lfx.linuxfoundation.org", name)
    assert readings(build(subject=subject, sender=sender, text=text, html=html)) == readings(library.as_bytes())


def readings(message: bytes) -> list[object]:
    """Return the parts of a mail that a mail program shows, with LF line ends."""
    read: Any = email.message_from_bytes(message, policy=default)
    shown = [read[name] for name in ("Subject", "From", "To", "MIME-Version")]
    parts = [(part.get_content_type(), part.get_content().replace("\r\n", "\n")) for part in read.iter_parts()]
    return [read.get_content_type(), *shown, *parts]

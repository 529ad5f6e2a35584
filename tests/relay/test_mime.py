# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Every message is read back with the `email` library of Python, which is not used to write it."""

from __future__ import annotations

import email
import email.utils
import re
from collections import Counter
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, default
from email.utils import getaddresses, parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay import mime
from relay.submission import Submission
from shared import addresses
from shared.addresses import Mailbox

if TYPE_CHECKING:
    from email.message import Message

# By default a newer Python does not read address literals.
LENIENT: Final[dict[str, bool]] = {"strict": False} if hasattr(email.utils, "supports_strict_parsing") else {}
PROPERTY = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2025, 1, 5, 3, 4, 5, tzinfo=UTC)
EMAIL_ID = "550e8400-e29b-41d4-a716-446655440000"
SUBMISSION = Submission(
    email_id=EMAIL_ID,
    group_id="invite-batch-abc123",
    sender=Mailbox("noreply", "lfx.linuxfoundation.org", "LFX Self Serve"),
    recipient=Mailbox("user", "example.com"),
    reply_to=None,
    to="user@example.com",
    subject="Hi",
    text="Hi",
    html="<p>Hi</p>",
)
URL = "https://lfx.dev/u?token=a%2Bb&list=1,2;x='(y)'"
LONG_URL = "https://lfx.dev/" + "x" * 962
FAMILY = "👩\u200d👩\u200d👧\u200d👦"

ODD_PIECES = [
    *"a.é=_?\"\\,;:<>()[]@'\x7f\x85\xa0\u2028\u2029\u3000\ufeff\u0301😀",
    *(" ", "  ", "\t", "\x0b", "\x0c", "\x1b", "\x1c"),
    *(
        "word",
        "x" * 70,
        "From ",
        "=?x?=",
        "=?utf-8?q?a?=",
        "=?",
        "?=",
        FAMILY,
        "<x@evil.example>",
        "Bcc: x@evil.example",
    ),
]
LINE_BREAKS = ["\r", "\n", "\r\n", "\n\n", "\r\n\r\n", "\n\r", "\r\r\n", "\0"]
BODY_PIECES = [
    *(
        "\r\n.",
        "\r\n.\r\n",
        "\n.\n",
        "\r\nFrom ",
        "From x",
        " \r\n",
        "\t\n",
        "=\r\n",
        "=0D",
        "--=_",
        f"\r\n--=_{EMAIL_ID}--\r\n",
    ),
    *("Content-Type: text/html\r\n\r\n", "x" * 76, "x" * 998, "x" * 999, "é" * 5000, "y" * 5000),
]


def of(pieces: list[str], max_size: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=max_size).map("".join)


lines = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=120),
    of(ODD_PIECES, 40),
    st.text("ab ", max_size=300),
    st.text("é ", max_size=300),
)
subjects = lines.filter(lambda text: 0 < len(text.encode()) <= 998)
names = lines.map(str.strip).filter(lambda text: 0 < len(text.encode()) <= 256)
bodies = st.one_of(
    st.text(min_size=1, max_size=200), of(ODD_PIECES + LINE_BREAKS + BODY_PIECES, 20), of(["a\r\n", ".\r\n", "b "], 40)
).filter(bool)
long_lines = st.tuples(st.sampled_from(["x", "é", "😀", ".", "=", " ", "<a href='"]), st.integers(1, 5000)).map(
    lambda it: it[0] * it[1]
)
group_ids = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=60)
mailboxes = st.builds(
    Mailbox,
    st.sampled_from(["a", "l" * 64, '"a b"', '"a,b<c>@d\\""', "!#$%&'*+-/=?^_`{|}~"]),
    st.sampled_from(["example.com", "xn--bcher-kva.example", "[127.0.0.1]", ".".join(["d" * 62] * 3)]),
    st.one_of(st.just(""), names),
)
tag_words = st.text("Az09_-", min_size=1, max_size=128)
submissions = st.builds(
    Submission,
    email_id=st.just(EMAIL_ID),
    group_id=group_ids,
    sender=mailboxes,
    recipient=mailboxes,
    reply_to=st.one_of(st.none(), mailboxes),
    to=st.just("user@example.com"),
    subject=subjects,
    text=st.one_of(bodies, long_lines),
    html=st.one_of(bodies, long_lines),
    unsubscribe_url=st.sampled_from(["", URL, LONG_URL]),
    tags=st.one_of(st.none(), st.dictionaries(tag_words, tag_words, min_size=1, max_size=10)),
)


def build(configuration_set: str = "", /, **changes: Any) -> bytes:
    return mime.build(msgspec.structs.replace(SUBMISSION, **changes), configuration_set=configuration_set, now=NOW)


def raw_lines(message: bytes, name: str) -> list[str]:
    """Return the physical lines of a top header, without its name."""
    head = message.partition(b"\r\n\r\n")[0].decode("ascii")
    [header] = re.findall(rf"^{name}: ([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", head, re.MULTILINE)
    return str(header).split("\r\n")


def unfolded(message: bytes, name: str) -> str:
    return "".join(raw_lines(message, name))


def decoded(value: str) -> str:
    return str(make_header(decode_header(value)))


def subject_of(message: bytes) -> str:
    return decoded(unfolded(message, "Subject"))


def mailboxes_of(message: bytes, name: str) -> list[tuple[str, str]]:
    """Return names and addresses; a name is decoded after the header was taken apart (RFC 2047, 6.2)."""
    read = getaddresses([unfolded(message, name)], **LENIENT)
    return [(decoded(shown), address) for shown, address in read]


def bodies_of(message: bytes) -> list[tuple[str, object]]:
    """Return type and bytes of each part."""
    parts: Any = email.message_from_bytes(message).get_payload()
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in parts]


def encoded_words(message: bytes, name: str) -> list[str]:
    return re.findall(r"=\?utf-8\?b\?[A-Za-z0-9+/=]*\?=", " ".join(raw_lines(message, name)))


def without_blanks(text: str) -> str:
    return "".join(text.split())


def physical_lines(message: bytes) -> list[bytes]:
    return message.split(b"\r\n")


# --- for any submission --------------------------------------------------------------------------------------------


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
def test_the_wire_is_7_bit_with_crlf_lines_of_at_most_998_bytes(submission: Submission, configuration_set: str) -> None:
    message = mime.build(submission, configuration_set=configuration_set, now=NOW)
    assert message.endswith(b"\r\n")
    assert message.isascii()
    for line in physical_lines(message):
        assert len(line) <= 998
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


# --- single cases --------------------------------------------------------------------------------------------------


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
        ("x" * 998, "7bit"),
        (" \t~", "7bit"),
        ("\r\n.\r\n..", "7bit"),
        ("x" * 999, "quoted-printable"),
        ("Hi\n", "quoted-printable"),
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
        "x" * 998 + "\r\n" + "y" * 999,
        "<p>\n" * 1000,
    ],
)
def test_a_long_line_is_not_broken(html: str) -> None:
    message = build(html=html)
    assert bodies_of(message)[1] == ("text/html", html.encode())
    assert max(map(len, physical_lines(message))) <= 998


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

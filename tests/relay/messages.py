# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Submissions of every kind, and readers of their messages that use the `email` library of Python. Asserts nothing."""

from __future__ import annotations

import email
import email.utils
import re
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.utils import getaddresses
from typing import Any, Final

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from relay import mime
from relay.submission import Submission
from shared.addresses import Mailbox

# By default a newer Python does not read address literals.
LENIENT: Final[dict[str, bool]] = {"strict": False} if hasattr(email.utils, "supports_strict_parsing") else {}
PROPERTY = settings(max_examples=60)
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
LONG_URL = "https://lfx.dev/" + "x" * 952
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
    *("Content-Type: text/html\r\n\r\n", "x" * 76, "x" * 988, "x" * 989, "x" * 998, "é" * 5000, "y" * 5000),
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

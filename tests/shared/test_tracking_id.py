# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The value of X-LFX-TRACKING-ID: written on one line, read back from whatever SES makes of it."""

from __future__ import annotations

import base64
from email import quoprimime
from email.header import Header
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared import group_index, tracking_id

if TYPE_CHECKING:
    from collections.abc import Callable

PROPERTY = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
UUID = "550e8400-e29b-41d4-a716-446655440000"

group_ids = st.one_of(
    st.text("ab/%=?_ é\t", min_size=1, max_size=30),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=255),
    st.from_regex(r"\A=\?(utf-8|UTF-7|x|é|)\?[bqBQ]\?[!-~]{0,20}\?=?\Z"),
).filter(group_index.is_valid)
uuids = st.uuids().map(str)


def in_base64(piece: str) -> str:
    return f"=?UTF-8?B?{base64.b64encode(piece.encode()).decode()}?="


def in_quoted_printable(piece: str) -> str:
    return quoprimime.header_encode(piece.encode(), "utf-8")


def pieces(value: str, size: int) -> list[str]:
    return [value[at : at + size] for at in range(0, len(value), size)]


@PROPERTY
@given(group_ids, uuids)
@example("/", UUID)
@example("a/" + UUID, UUID)
@example("%2F", UUID)
@example("=?utf-8?q?a?=", UUID)
@example("=?utf-8?b?A?=", UUID)
@example("=?é?q?a?=", UUID)
@example("😀" * 63, UUID)
@example("\x01" * 255, UUID)
def test_the_email_id_comes_back_whatever_the_group_id(group_id: str, email_id: str) -> None:
    assert tracking_id.email_id_of(tracking_id.format_value(group_id, email_id)) == email_id


@PROPERTY
@given(group_ids, uuids)
def test_the_value_is_printable_ascii_without_blanks_whatever_the_group_id(group_id: str, email_id: str) -> None:
    value = tracking_id.format_value(group_id, email_id)
    assert value.isascii()
    assert value.isprintable()
    assert " " not in value
    assert len(f"{tracking_id.HEADER}: {value}") <= 998


@PROPERTY
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="%"), min_size=1))
def test_a_group_id_of_printable_ascii_stays_itself(group_id: str) -> None:
    assert tracking_id.format_value(group_id, UUID) == f"{group_id}/{UUID}"


@PROPERTY
@given(group_ids.filter(lambda group_id: not (group_id.isascii() and group_id.isprintable()) or "%" in group_id))
def test_any_other_group_id_is_percent_encoded_utf_8(group_id: str) -> None:
    encoded, _, email_id = tracking_id.format_value(group_id, UUID).rpartition("/")
    assert encoded != group_id
    assert unquote(encoded, errors="strict") == group_id
    assert email_id == UUID


@pytest.mark.parametrize(
    ("group_id", "encoded"),
    [
        ("a b", "a%20b"),
        ("50%", "50%25"),
        ("é", "%C3%A9"),
        ("a/é", "a/%C3%A9"),
        ("\t", "%09"),
        ("\x7f", "%7F"),
        ("'<é>;\"", "'<%C3%A9>;\""),
    ],
)
def test_only_what_has_to_be_is_percent_encoded(group_id: str, encoded: str) -> None:
    assert tracking_id.format_value(group_id, UUID) == f"{encoded}/{UUID}"


@pytest.mark.parametrize(
    "group_id", ["g" * 22, UUID, "g" * 23, "g" * 41, "g" * 59, "g" * 77, "g" * 255], ids=lambda it: str(len(it))
)
def test_f54_a_long_identifier_is_neither_folded_nor_encoded(group_id: str) -> None:
    assert tracking_id.format_value(group_id, UUID) == f"{group_id}/{UUID}"


@pytest.mark.parametrize(
    "echo",
    [
        f"\r\n g/{UUID}",
        f" g/{UUID} ",
        f"g/{UUID}\r\n",
        f"g/\r\n {UUID}",
        f"=?utf-8?q?g/\r\n {UUID}?=",
        f"g\r\n\t/{UUID}",
        f"g/{UUID[:20]}\r\n {UUID[20:]}",
        f"g/\n{UUID}",
        f"\t g/{UUID}\t",
        f"a/b/g/{UUID}",
        f"/{UUID}",
        UUID,
        f"a%2Fb/{UUID}",
    ],
)
def test_f07_a_folded_or_padded_echo_is_understood(echo: str) -> None:
    assert tracking_id.email_id_of(echo) == UUID


@pytest.mark.parametrize("encode", [in_base64, in_quoted_printable])
@pytest.mark.parametrize("joint", [" ", "\r\n ", "\n\t"])
@pytest.mark.parametrize("size", [1, 7, 36, 45, 1000])
@pytest.mark.parametrize("length", [1, 22, 23, 41, 255])
def test_f54_an_encoded_echo_is_understood_however_it_is_split(
    length: int, size: int, joint: str, encode: Callable[[str], str]
) -> None:
    echo = joint.join(encode(piece) for piece in pieces(f"{'g' * length}/{UUID}", size))
    assert tracking_id.email_id_of(f" {echo}\r\n") == UUID


@PROPERTY
@given(group_ids, st.integers(20, 75), st.sampled_from(["utf-8", "us-ascii", "iso-8859-1"]))
def test_f54_what_the_library_folds_and_encodes_is_understood(group_id: str, width: int, charset: str) -> None:
    header = Header(tracking_id.format_value(group_id, UUID), charset, maxlinelen=width)
    assert tracking_id.email_id_of(header.encode()) == UUID


@PROPERTY
@given(group_ids)
@example("Gruppe é/1")
def test_an_echo_of_the_group_id_itself_is_understood(group_id: str) -> None:
    """The Go service writes the group id as it is, and SES encodes it."""
    echo = "\r\n ".join(in_base64(piece) for piece in pieces(f"{group_id}/{UUID}", 10))
    assert tracking_id.email_id_of(echo) == UUID


@pytest.mark.parametrize(
    "echo",
    [
        f"=?utf-8?b?A?=/{UUID}",
        f"=?utf-8?b?!!!?=/{UUID}",
        f"=?x-unknown?q?g?=/{UUID}",
        f"=?hex?q?67?=/{UUID}",
        f"=?é?q?g?=/{UUID}",
        f"=?utf-8?q?=FF?=/{UUID}",
        f"=?utf-8?q?g/{UUID}",
        f"=?utf-8?x?g?=/{UUID}",
        f"=??q?g?=/{UUID}",
        f"=?utf-8\0?q?g?=/{UUID}",
        f"=?utf-8*de?q?g?=/{UUID}",
        f"\udcff=?utf-8?q?g?=/{UUID}",
        f"é =?utf-8?q?g?=/{UUID}",
    ],
)
def test_what_only_looks_like_an_encoded_word_does_no_harm(echo: str) -> None:
    assert tracking_id.email_id_of(echo) == UUID


@PROPERTY
@given(
    st.one_of(
        st.text(st.characters()),
        st.text("=?/ \r\nutf-8bqA"),
        st.from_regex(r"(=\?[a-z0-9é-]{0,8}\?[bqBQ]\?[!->@-~é]{0,12}\?= ?){1,4}", fullmatch=True),
    )
)
def test_any_text_can_be_read(value: str) -> None:
    """A queue holds what anybody writes; the answer is one word without a slash."""
    email_id = tracking_id.email_id_of(value)
    assert email_id.split() in ([], [email_id])
    assert "/" not in email_id


@pytest.mark.parametrize("value", ["", " ", "/", "g/", "g/ \r\n ", "=?utf-8?q?g/?="])
def test_where_there_is_no_email_id_none_is_invented(value: str) -> None:
    assert tracking_id.email_id_of(value) == ""

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The value of X-LFX-TRACKING-ID: written on one line, and read from every form in which SES returns it."""

from __future__ import annotations

import base64
import itertools
from email import quoprimime
from email.header import Header
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared import group_index, tracking_id

if TYPE_CHECKING:
    from collections.abc import Callable

PROPERTY = settings(max_examples=100)
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
def test_the_email_id_is_read_back_for_any_group_id(group_id: str, email_id: str) -> None:
    assert tracking_id.email_id_of(tracking_id.format_value(group_id, email_id)) == email_id


@PROPERTY
@given(group_ids, uuids)
def test_the_value_is_printable_ascii_without_blanks_for_any_group_id(group_id: str, email_id: str) -> None:
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
def test_only_necessary_characters_are_percent_encoded(group_id: str, encoded: str) -> None:
    assert tracking_id.format_value(group_id, UUID) == f"{encoded}/{UUID}"


def test_a_long_group_id_is_neither_folded_nor_encoded() -> None:
    assert tracking_id.format_value("g" * 255, UUID) == f"{'g' * 255}/{UUID}"


@pytest.mark.parametrize(
    "value",
    [
        f"\r\n g/{UUID}",
        f"g/{UUID}\r\n",
        f"g/\r\n {UUID}",
        f"=?utf-8?q?g/\r\n {UUID}?=",
        f"g\r\n\t/{UUID}",
        f"g/{UUID[:20]}\r\n {UUID[20:]}",
        f"\t g/{UUID}\t",
        f"a/b/g/{UUID}",
        f"/{UUID}",
        UUID,
        f"a%2Fb/{UUID}",
    ],
)
def test_a_folded_or_padded_value_is_read(value: str) -> None:
    assert tracking_id.email_id_of(value) == UUID


@pytest.mark.parametrize("encode", [in_base64, in_quoted_printable])
def test_a_value_in_encoded_words_is_read_for_any_length_and_split(encode: Callable[[str], str]) -> None:
    for length, size, joint in itertools.product((1, 22, 255), (1, 7, 45, 1000), (" ", "\r\n ", "\n\t")):
        value = joint.join(encode(piece) for piece in pieces(f"{'g' * length}/{UUID}", size))
        assert tracking_id.email_id_of(f" {value}\r\n") == UUID, (length, size, joint)


@PROPERTY
@given(group_ids, st.integers(20, 75), st.sampled_from(["utf-8", "us-ascii", "iso-8859-1"]))
def test_a_value_that_pythons_library_folds_and_encodes_is_read(group_id: str, width: int, charset: str) -> None:
    header = Header(tracking_id.format_value(group_id, UUID), charset, maxlinelen=width)
    assert tracking_id.email_id_of(header.encode()) == UUID


@PROPERTY
@given(group_ids)
@example("Gruppe é/1")
def test_a_value_of_the_go_service_is_read(group_id: str) -> None:
    """The Go service does not encode the group id; SES does."""
    value = "\r\n ".join(in_base64(piece) for piece in pieces(f"{group_id}/{UUID}", 10))
    assert tracking_id.email_id_of(value) == UUID


@pytest.mark.parametrize(
    "value",
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
def test_a_text_like_an_encoded_word_is_no_obstacle(value: str) -> None:
    assert tracking_id.email_id_of(value) == UUID


@PROPERTY
@given(
    st.one_of(
        st.text(st.characters()),
        st.text("=?/ \r\nutf-8bqA"),
        st.from_regex(r"(=\?[a-z0-9é-]{0,8}\?[bqBQ]\?[!->@-~é]{0,12}\?= ?){1,4}", fullmatch=True),
    )
)
def test_any_text_is_read_as_one_word_without_a_slash(value: str) -> None:
    """A queue may contain messages of others."""
    email_id = tracking_id.email_id_of(value)
    assert email_id.split() in ([], [email_id])
    assert "/" not in email_id


@pytest.mark.parametrize("value", ["", " ", "/", "g/", "g/ \r\n ", "=?utf-8?q?g/?="])
def test_a_value_without_an_email_id_is_read_as_an_empty_string(value: str) -> None:
    assert tracking_id.email_id_of(value) == ""

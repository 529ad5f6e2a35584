# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What becomes of line breaks and control characters in a subject or a display name."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.header_text import one_line

ODD = st.text(alphabet=st.sampled_from([*"ab \t\r\n\0\x0b\x0c\x1b\x1f\x7f\x80\x85\x9f\xa0\u2028\u2029\u200b\ufeff😀"]))


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("Hello\nWorld", "Hello World"),
        ("Hello\r\nWorld", "Hello World"),
        ("Hello\rWorld", "Hello World"),
        ("Hello \t\r\n\r\n \tWorld", "Hello World"),
        ("Hello\n\rWorld", "Hello World"),
        ("Hello\u2028World\u2029!\n", "Hello\u2028World\u2029!"),
        ("Hello\tWorld", "Hello World"),
        ("Hello \t\t World", "Hello World"),
        ("Invitation\r\n", "Invitation"),
        ("\nInvitation", "Invitation"),
        ("Invitation \n ", "Invitation"),
        ("a\0b\x07c\x1b[0m\x7f\x9f", "abc[0m"),
        ("a\x0bb\x0cc\x1cd\x85e", "abcde"),
        ("a \0\r\0\n\0 b", "a b"),
        ("a\r\nBcc: x@evil.example", "a Bcc: x@evil.example"),
        ("=?utf-8?q?a?=\r\n =?utf-8?q?b?=", "=?utf-8?q?a?= =?utf-8?q?b?="),
        ("\r\n", ""),
        ("\0", ""),
        (" \t ", ""),
        ("", ""),
    ],
)
def test_line_breaks_and_tabs_become_a_blank_and_other_controls_are_dropped(typed: str, sent: str) -> None:
    assert one_line(typed) == sent


@pytest.mark.parametrize(
    "text", [" ", " Two  blanks ", "Zoë \u2028\u2029 \u00a0\u200b\u202e\ufeff 👩\u200d👧", "=?utf-8?q?a=0A?="]
)
def test_a_text_without_control_characters_is_unchanged(text: str) -> None:
    assert one_line(text) == text


@given(ODD)
def test_no_control_character_is_left_and_a_second_time_changes_nothing(text: str) -> None:
    cleaned = one_line(text)
    assert "Cc" not in {unicodedata.category(character) for character in cleaned}
    assert one_line(cleaned) == cleaned
    assert [one for one in cleaned if one != " "] == [
        one for one in text if one != " " and unicodedata.category(one) != "Cc"
    ]


@pytest.mark.parametrize("piece", [" ", "\t", "\n", "\0", " \0", " \n", "a \t"])
def test_the_time_grows_with_the_length_only(piece: str) -> None:
    began = time.process_time()
    one_line(piece * 200_000 + "x\0")
    assert time.process_time() - began < 2

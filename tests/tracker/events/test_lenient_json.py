# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Text that strict JSON refuses but that has one clear meaning is decoded; other text is Malformed, in little time."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decoding import Malformed
from tracker.events import lenient_json

MIB = 1 << 20
MOST_SECONDS = 3.0  # of one text of 1 MiB; without load it takes a tenth of a second


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"a":"x\ud83d"}', "x\ufffd"),
        (r'{"a":"\ude00x"}', "\ufffdx"),
        (r'{"a":"\ud83d\ud83d\ude00\ude00"}', "\ufffd\U0001f600\ufffd"),
        (r'{"a":"\uD83D\\uDE00"}', r"�\uDE00"),
        (r'{"a":"\ud83d \\ud83d"}', r"� \ud83d"),
        (r'{"a":"\ud83d\n"}', "\ufffd\n"),
        ('{"a":"x\ud83d"}', "x\ufffd"),
        ('{"a":"\ud83d\ude00"}', "\U0001f600"),
        ('{"a":"\udce9"}', "\ufffd"),  # the byte E9, which is not UTF-8, read with surrogateescape
        ('{"a":"x\ty\nz\r\0\x1f\x7f"}', "x\ty\nz\r\0\x1f\x7f"),
        ('\ufeff{"a":"x"}', "x"),
        (' \ufeff\ufeff\r\n{"a":"x"}\0\0', "x"),
        ('\u00ef\u00bb\u00bf{"a":"x"}', "x"),
        (r'{"a":"\x41 \' \u12"}', r"\x41 \' \u12"),
        ('{"a":1e999}', float("inf")),
    ],
    ids=range(15),
)
def test_text_that_strict_json_refuses_is_decoded(text: str, value: object) -> None:
    assert lenient_json.decode(text) == {"a": value}


@given(
    st.recursive(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**53), 2**53) | st.none(), st.lists)
)
def test_json_has_the_same_value_with_and_without_a_byte_order_mark(value: Any) -> None:
    text = json.dumps(value)
    assert lenient_json.decode(text) == lenient_json.decode("\ufeff" + text) == value


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_a_string_of_any_characters_is_decoded_without_surrogates(text: str) -> None:
    for ascii_only in (True, False):
        lenient_json.decode(json.dumps(text, ensure_ascii=ascii_only)).encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{",
        '{"a":1}x',
        "{'a':1}",
        '{"a":1,}',
        '{"a":1}\ud83d',
        '"',
        "\\",
        '"\\',
        '"\\u',
        "\ufeff",
        "\0",
        "[1 2]",
    ],
)
def test_other_text_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        lenient_json.decode(text)


@pytest.mark.parametrize(
    "text",
    [
        '"' * MIB,
        "\\" * MIB,
        '"' + "\\" * MIB,
        '"' + r"\ud83d" * (MIB // 6) + '"',
        '"' + r"\x" * (MIB // 2) + '"',
        "[" * MIB,
        "\ufeff" + "[" * MIB,
        '\ufeff{"a":' * (MIB // 6),
        '{"a":"\t",' + '"b":' * (MIB // 4),
        '{"a":' + "9" * MIB + "}",
        "\ufeff" + "-" * MIB,
        " " * MIB + "\0" * MIB,
        "\ud83d" * MIB,
    ],
    ids=range(13),
)
def test_a_hostile_text_takes_little_time(text: str) -> None:
    started = time.process_time()
    with suppress(Malformed):
        lenient_json.decode(text)
    assert time.process_time() - started < MOST_SECONDS

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Tables are aligned with any characters, and cannot send control characters to a terminal."""

from __future__ import annotations

from datetime import datetime

import pytest

from shared.commands import formatting


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_are_aligned_at_the_right() -> None:
    rows = [("ada@example.com", 7, True), ("b@x", 1200, None)]
    assert formatting.table(rows, ("to", "opens", "failed")).splitlines() == [
        "to               opens  failed",
        "ada@example.com      7  yes",
        "b@x               1200  -",
    ]


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    rows = [("会议", "|"), ("e\u0301tat", "|"), ("abcd", "|")]
    assert formatting.table(rows).splitlines() == ["会议  |", "e\u0301tat  |", "abcd  |"]


def test_control_characters_are_escaped() -> None:
    assert formatting.printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (65536, "64 KiB"), (5 * 2**50, "5120 TiB")])
def test_sizes_are_in_the_largest_unit_that_they_fill(count: int, text: str) -> None:
    assert formatting.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 seconds"), (60, "60 seconds"), (86_400, "24 hours"), (345_600, "4 days")]
)
def test_durations_are_in_the_largest_unit_that_they_fill_twice(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_a_line_is_clipped_to_the_columns_of_the_terminal() -> None:
    assert formatting.clipped("abcdef", 6) == "abcdef"
    assert formatting.clipped("abcdef", 5) == "abcd\u2026"
    assert formatting.clipped("\u65e5\u672c\u8a9e", 5) == "\u65e5\u672c\u2026"
    assert formatting.clipped("abcdef", None) == "abcdef"


def test_a_long_line_continues_in_indented_lines() -> None:
    assert formatting.in_lines("head", ["a=1", "b=2"], 20) == "head  a=1  b=2"
    assert formatting.in_lines("head", ["a" * 10, "b" * 10], 24) == f"head\n    {'a' * 10}\n    {'b' * 10}"
    assert formatting.in_lines("head", ["a" * 100], None) == f"head  {'a' * 100}"


def test_a_time_has_its_zone() -> None:
    assert formatting.time(datetime.fromisoformat("2026-01-02T04:04:05.5+01:00")) == "2026-01-02T03:04:05Z"


def test_a_table_with_long_cells_fits_the_terminal() -> None:
    text = formatting.table([("NATS_URL", "n" * 40, "environment")], ("VARIABLE", "VALUE", "SOURCE"), 50)
    assert text.splitlines() == [f"VARIABLE  {'VALUE':27}  SOURCE", f"NATS_URL  {'n' * 26}\u2026  environment"]


def test_a_text_behind_a_head_continues_with_an_indentation() -> None:
    assert formatting.hanging("head", "one two", 2, None) == "head  one two"
    assert formatting.hanging("head", "a" * 15 + " bb cc", 2, 30) == "head  " + "a" * 15 + " bb cc"
    assert formatting.hanging("\x1b[31mhead\x1b[0m", "a" * 18 + " bb cc", 2, 29).splitlines() == [
        "\x1b[31mhead\x1b[0m  " + "a" * 18 + " bb",
        "  cc",
    ]

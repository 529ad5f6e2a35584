# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A temporary database holds the values of a mailing by their numbers."""

from __future__ import annotations

import pytest

from relay.commands.mailing.storage import PAGE, FirstLines, StorageError, Values


def test_values_are_in_the_order_of_their_numbers_and_may_be_replaced_while_they_are_read() -> None:
    values = Values(str)
    numbers = range(1, 2 * PAGE + 2)
    for number in reversed(numbers):
        values[number] = str(number)
    for number, value in values.pairs():
        values[number] = f"{value}, read"
    assert list(values.items()) == [(number, f"{number}, read") for number in numbers]
    del values[1]
    assert (len(values), 1 in values, values.get(1), values[2]) == (2 * PAGE, False, None, "2, read")
    with pytest.raises(KeyError):
        del values[1]


def test_the_first_line_of_a_text_is_found_again() -> None:
    lines = FirstLines()
    assert [lines.add(text, line) for line, text in enumerate(["a", "b", "a", "A"])] == [0, 1, 0, 3]


def test_a_temporary_file_that_cannot_grow_is_reported() -> None:
    values = Values(str)
    values._database.change("PRAGMA max_page_count = 3")  # noqa: SLF001 - takes the place of a full disk
    with pytest.raises(StorageError, match=r"a temporary file cannot be written: .* full: is there space in TMPDIR"):
        values[1] = "x" * 100_000

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The order of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest

from tests.stack import order

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
FILES = [f"tests/test_{number:03}.py" for number in range(100)] + list(order.SECONDS)


class Item(NamedTuple):
    """A test, as far as its order depends on it."""

    location: tuple[str, int, str]


def three_of_each(files: Sequence[str]) -> list[pytest.Item]:
    """Return three tests of each file."""
    return cast("list[pytest.Item]", [Item((file, number, "")) for file in files for number in range(3)])


def test_each_listed_file_exists() -> None:
    assert [file for file in order.SECONDS if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_each_test_runs_once_and_a_file_without_a_place_keeps_its_order(workers: int) -> None:
    tests = three_of_each(FILES)
    ordered = order.by_worker(tests, workers)
    assert sorted(ordered, key=tests.index) == tests
    assert [test for test in ordered if test.location[0] not in order.SECONDS] == three_of_each(FILES[:100])


@pytest.mark.parametrize("workers", [2, 4, 7])
def test_each_worker_begins_with_a_long_file(workers: int) -> None:
    ordered = order.by_worker(three_of_each(FILES), workers)
    starts = [len(ordered) * number // workers for number in range(workers)]
    assert all(ordered[start].location[0] in order.SECONDS for start in starts)


def test_long_files_alone_are_all_run() -> None:
    tests = three_of_each(list(order.SECONDS))
    assert sorted(order.by_worker(tests, 4), key=tests.index) == tests

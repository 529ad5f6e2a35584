# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The bytes of a file come whole and unpacked, and a file that is broken says so after what it had."""

from __future__ import annotations

import gzip
import sys
from typing import TYPE_CHECKING

import pytest

from tracker.commands import input_file
from tracker.commands.input_file import Unreadable

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "é {}\n" * 5000


def read(path: Path) -> str:
    with input_file.opened(str(path)) as pieces:
        return "".join(pieces)


@pytest.mark.parametrize(
    "packed",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        gzip.compress(TEXT.encode()),
        gzip.compress(TEXT[:5].encode()) + gzip.compress(TEXT[5:].encode()),
        gzip.compress(TEXT.encode("utf-16")),
    ],
    ids=["plain", "with a mark", "UTF-16", "gzip", "two of gzip", "UTF-16 in gzip"],
)
def test_a_file_is_read_as_utf_8_however_it_is_packed(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "f").write_bytes(packed)
    assert read(tmp_path / "f") == TEXT


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert not read(tmp_path / "f")


def test_much_in_a_small_gzip_comes_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(b"x" * (20 << 20)))
    with input_file.opened(str(tmp_path / "f")) as pieces:
        assert max(map(len, pieces)) <= input_file.CHUNK_BYTES


@pytest.mark.parametrize(
    ("broken", "why"),
    [(gzip.compress(TEXT.encode())[:-20], "cut off"), (b"\x1f\x8bnot gzip", "broken gzip")],
    ids=["cut off", "not gzip"],
)
def test_a_broken_gzip_is_told(tmp_path: Path, broken: bytes, why: str) -> None:
    (tmp_path / "f").write_bytes(broken)
    with pytest.raises(Unreadable, match=why):
        read(tmp_path / "f")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read(tmp_path / "f")


def test_standard_input_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(Unreadable, match="standard input is closed"), input_file.opened(input_file.STDIN):
        pass

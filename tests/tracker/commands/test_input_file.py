# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The text of a file is complete and decompressed, and a broken file is an error after the text before it."""

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
    ids=["plain", "UTF-8 with byte order mark", "UTF-16", "gzip", "two gzip members", "UTF-16 in gzip"],
)
def test_a_file_is_decompressed_and_decoded(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "f").write_bytes(packed)
    assert read(tmp_path / "f") == TEXT


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert not read(tmp_path / "f")


def test_a_large_text_in_a_small_gzip_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(gzip.compress(b"x" * (20 << 20)))
    with input_file.opened(str(tmp_path / "f")) as pieces:
        assert max(map(len, pieces)) <= input_file.CHUNK_BYTES


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_are_numbered_and_long_ones_are_cut(size: int) -> None:
    text = "a\n\nlonger than five\nb"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(input_file.lines(pieces, 5)) == [(1, "a"), (2, ""), (3, "longer"), (4, "b")]


@pytest.mark.parametrize(
    ("broken", "why"),
    [(gzip.compress(TEXT.encode())[:-20], "cut off"), (b"\x1f\x8bnot gzip", "gzip file is broken")],
    ids=["cut off", "not gzip"],
)
def test_a_broken_gzip_is_unreadable(tmp_path: Path, broken: bytes, why: str) -> None:
    (tmp_path / "f").write_bytes(broken)
    with pytest.raises(Unreadable, match=why):
        read(tmp_path / "f")


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read(tmp_path / "f")


def test_a_closed_standard_input_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(Unreadable, match="standard input is closed"), input_file.opened(input_file.STDIN):
        pass

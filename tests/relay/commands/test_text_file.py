# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Files are text as editors of any system save it, and their byte order marks are not part of it."""

from __future__ import annotations

import codecs
import io

import pytest

from relay.commands import text_file

TEXT = "to,name\r\nada@example.com,Ada \U0001f600\r\n"
MARK = codecs.BOM_UTF8


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        MARK + TEXT.encode(),
        MARK + MARK + TEXT.encode(),
        TEXT[:9].encode() + MARK + TEXT[9:].encode() + MARK,
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT[:9].encode("utf-16") + TEXT[9:].encode("utf-16"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    ],
)
def test_utf_8_and_utf_16_with_a_mark_are_read_and_marks_are_removed_everywhere(content: bytes) -> None:
    assert text_file.decode(content) == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14", "an Excel workbook or another archive, and not text: .*"),
        (b"a\r\nb\rc\n\xff", "line 4: byte 0xff is not UTF-8: .*"),
        (b"a\n" + TEXT.encode("utf-16"), "line 2: this is UTF-16 without a byte order mark: save the file as UTF-8"),
        (MARK + b"\xe4", "line 1: byte 0xe4 is not UTF-8: .*"),
        (b"\xed\xa0\xbd", "line 1: byte 0xed is not UTF-8: .*"),
        (TEXT.encode("utf-16-le"), "line 1: this is UTF-16 without a byte order mark: save the file as UTF-8"),
        (TEXT.encode("utf-16-be"), "line 1: this is UTF-16 without a byte order mark: save the file as UTF-8"),
        (TEXT.encode("utf-16") + b"a", "not UTF-16, although it begins so: truncated data"),
        ("a\n".encode("utf-16") + codecs.BOM_UTF16_BE, "line 2: not text: save the file as UTF-8"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "not UTF-16, although it begins so: unexpected end of data"),
    ],
)
def test_other_bytes_are_refused_with_their_line(content: bytes, message: str) -> None:
    with pytest.raises(text_file.Undecodable, match=f"^{message}$"):
        text_file.decode(content)


def test_only_line_ends_are_line_ends() -> None:
    content = "a\r\nb\u2028c\x0bd\re\n".encode()
    assert list(text_file.lines(io.BufferedReader(io.BytesIO(content)))) == ["a\r\n", "b\u2028c\x0bd\r", "e\n"]
    assert text_file.with_plain_line_ends("a\r\nb\rc\n\n\r\n") == "a\nb\nc\n\n\n"

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the text of a file that an editor on any system has saved: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

Text has no byte order marks: they are invisible characters where files were joined, and mail programs show them.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import Final

MARK: Final = "\ufeff"
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it begins with the same bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT: Final = re.compile("[\0\ufffe]")
_ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
_LINE_END: Final = re.compile("\r\n?|\n")


class Undecodable(Exception):
    """The bytes are not text in one of these encodings; the message names the line."""


def decode(content: bytes) -> str:
    """Return the text of a file, with its line ends, without byte order marks.

    Raises:
        Undecodable: it is not UTF-8, nor UTF-16 or UTF-32 that begins with a byte order mark.
    """
    encoding = next((name for mark, name in _WIDE if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding, errors="surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        raise Undecodable(f"not {encoding.upper()}, although it begins so: {error.reason}") from error
    if wrong := _NOT_TEXT.search(text):
        raise Undecodable(f"line {_line(text, wrong.start())}: not text: save the file as UTF-8")
    if wrong := _ESCAPED_BYTE.search(text):
        byte = wrong[0].encode(errors="surrogateescape").hex()
        raise Undecodable(f"line {_line(text, wrong.start())}: byte 0x{byte} is not UTF-8")
    return without_marks(text)


def without_marks(text: str) -> str:
    """Return a text without byte order marks."""
    return text.replace(MARK, "")


def with_plain_line_ends(text: str) -> str:
    """Return a text whose lines end with LF."""
    return _LINE_END.sub("\n", text)


def lines(text: str) -> io.StringIO:
    """Return the lines of a text with their line ends, as `csv` reads them."""
    return io.StringIO(text, newline="")


def _line(text: str, at: int) -> int:
    return sum(1 for _ in _LINE_END.finditer(text, 0, at)) + 1

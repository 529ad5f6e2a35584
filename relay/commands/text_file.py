# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the text of a file that an editor on any system has saved: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

Text has no byte order marks: they are invisible characters where files were joined, and mail programs show them.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK: Final = "\ufeff"
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it begins with the same bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx is a zip file, .xls an OLE file
LONGEST_MARK: Final = 4
MOST_NULS: Final = 3  # in text of Latin letters, UTF-16 has a NUL in every two bytes
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
    return "".join(lines(io.BufferedReader(io.BytesIO(content))))


def lines(file: io.BufferedReader) -> Iterator[str]:
    """Return the lines of a file with their line ends, as `csv` reads them, without byte order marks. Close the file.

    Raises:
        Undecodable: as `decode`, when that line is read.
    """
    start = file.peek(LONGEST_MARK)
    if start.startswith(_WORKBOOKS):
        file.close()
        raise Undecodable("an Excel workbook or another archive, and not text: save it as CSV UTF-8")
    encoding = next((name for mark, name in _WIDE if start.startswith(mark)), "utf-8")
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    try:
        with io.TextIOWrapper(file, encoding, errors, newline="") as text:
            for number, line in enumerate(text, 1):
                _check(line, number)
                yield without_marks(line)
    except UnicodeDecodeError as error:
        raise Undecodable(f"not {encoding.upper()}, although it begins so: {error.reason}") from error


def _check(line: str, number: int) -> None:
    if "\0" in line and line.count("\0") * MOST_NULS >= len(line):
        raise Undecodable(f"line {number}: this is UTF-16 without a byte order mark: save the file as UTF-8")
    if _NOT_TEXT.search(line):
        raise Undecodable(f"line {number}: not text: save the file as UTF-8")
    if wrong := _ESCAPED_BYTE.search(line):
        byte = wrong[0].encode(errors="surrogateescape").hex()
        raise Undecodable(f"line {number}: byte 0x{byte} is not UTF-8: save the file as UTF-8 (in Excel: CSV UTF-8)")


def without_marks(text: str) -> str:
    """Return a text without byte order marks."""
    return text.replace(MARK, "")


def with_plain_line_ends(text: str) -> str:
    """Return a text whose lines end with LF."""
    return _LINE_END.sub("\n", text)

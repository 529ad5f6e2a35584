# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Reads a file or standard input as text: piece by piece, and from these line by line."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK_BYTES: Final = 256 << 10
STDIN: Final = "-"
GZIP: Final = b"\x1f\x8b"
UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Unreadable(Exception):
    """The file cannot be opened, or cannot be read to its end."""


@contextmanager
def opened(path: str) -> Iterator[Iterator[str]]:
    """Open a file, or standard input for `-`; gzip and the UTF-16 of Windows are recognised by their first bytes.

    Bytes that are neither UTF-8 nor UTF-16 become U+FFFD.

    Raises:
        Unreadable: the file cannot be opened, or standard input is closed. The iterator raises it where the file is
            broken, after the text before that place.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise Unreadable("standard input is closed")
        stream: Any = sys.stdin.buffer
        # not the buffer itself: a thread that waits for input would hold its lock and block the exit after Ctrl-C
        raw = getattr(stream, "raw", stream)
        yield _pieces(io.BufferedReader(raw))
        return
    try:
        file = open(path, "rb")  # noqa: SIM115, PTH123 - a name from the command line, closed below
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    with file:
        yield _pieces(file)


def lines(pieces: Iterable[str], max_characters: int) -> Iterator[tuple[int, str]]:
    """Yield each line with its number, from 1; of a longer line `max_characters` + 1 are kept."""
    number, rest = 1, ""
    for piece in pieces:
        *complete, rest = (rest + piece).split("\n")
        for line in complete:
            yield number, line[: max_characters + 1]
            number += 1
        rest = rest[: max_characters + 1]
    yield number, rest


def _pieces(file: io.BufferedReader) -> Iterator[str]:
    try:
        packed = file.peek(len(GZIP)).startswith(GZIP)
        content = gzip.GzipFile(fileobj=file) if packed else file
        encoding = "utf-16" if content.peek(len(UTF_16[0])).startswith(UTF_16) else "utf-8-sig"
        chunks = iter(lambda: content.read1(CHUNK_BYTES), b"")
        yield from codecs.iterdecode(chunks, encoding, errors="replace")
    except EOFError as error:
        raise Unreadable("the gzip file is cut off") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable(f"the gzip file is broken: {error}") from error
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error

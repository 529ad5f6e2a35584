# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the text of a file or of standard input, piece by piece."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES: Final = 256 << 10
STDIN: Final = "-"
GZIP: Final = b"\x1f\x8b"
UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Unreadable(Exception):
    """The file cannot be opened, or not be read to its end."""


@contextmanager
def opened(path: str) -> Iterator[Iterator[str]]:
    """Open a file, or standard input for `-`; gzip and the UTF-16 of Windows are seen by their first bytes.

    What is neither UTF-8 nor UTF-16 becomes U+FFFD, for whoever reads it to refuse.

    Raises:
        Unreadable: it is closed, or cannot be opened; or, from the iterator, broken, and what came is all there is.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise Unreadable("standard input is closed")
        stream: Any = sys.stdin.buffer
        raw = getattr(stream, "raw", stream)  # the lock of what is not raw would outlive Ctrl-C
        yield _pieces(io.BufferedReader(raw))
        return
    try:
        file = open(path, "rb")  # noqa: SIM115, PTH123 - a name from the command line, closed below
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    with file:
        yield _pieces(file)


def _pieces(file: io.BufferedReader) -> Iterator[str]:
    try:
        packed = file.peek(len(GZIP)).startswith(GZIP)
        content = gzip.GzipFile(fileobj=file) if packed else file
        encoding = "utf-16" if content.peek(len(UTF_16[0])).startswith(UTF_16) else "utf-8-sig"
        chunks = iter(lambda: content.read1(CHUNK_BYTES), b"")
        yield from codecs.iterdecode(chunks, encoding, errors="replace")
    except EOFError as error:
        raise Unreadable("the gzip is cut off") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Unreadable(f"broken gzip: {error}") from error
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Edge: the bytes of a file or of standard input, piece by piece, unpacked and as UTF-8."""

from __future__ import annotations

import codecs
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
_WITH_GZIP_HEADER: Final = 16 + zlib.MAX_WBITS


class Unreadable(Exception):
    """The file cannot be opened, or not be read to its end."""


@contextmanager
def opened(path: str) -> Iterator[Iterator[bytes]]:
    """Open a file, or standard input for `-`; gzip and the UTF-16 of Windows are seen by their first bytes.

    Raises:
        Unreadable: it cannot be opened; or, from the iterator, it is broken, and what came is all there is.
    """
    if path == STDIN:
        stream: Any = sys.stdin.buffer
        yield _unpacked(_pieces(getattr(stream, "raw", stream)))  # the lock of what is not raw would outlive Ctrl-C
        return
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123 - a name from the command line, closed below
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    with file:
        yield _unpacked(_pieces(file))


def _pieces(file: Any) -> Iterator[bytes]:
    try:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    first = b""
    while len(first) < len(codecs.BOM_UTF8) and (chunk := next(chunks, b"")):
        first += chunk
    if first.startswith(GZIP):
        yield from _unpacked(_inflated(_joined(first, chunks)))
    elif first.startswith(UTF_16):
        yield from _as_utf_8(_joined(first, chunks))
    else:
        yield from _joined(first.removeprefix(codecs.BOM_UTF8), chunks)


def _joined(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack one gzip after the other, a piece at a time however much is packed into it."""
    inflating = zlib.decompressobj(_WITH_GZIP_HEADER)
    try:
        for chunk in chunks:
            packed = chunk
            while packed:
                if inflating.eof:
                    inflating = zlib.decompressobj(_WITH_GZIP_HEADER)
                if piece := inflating.decompress(packed, CHUNK_BYTES):
                    yield piece
                packed = inflating.unused_data if inflating.eof else inflating.unconsumed_tail
        if piece := inflating.flush():
            yield piece
    except zlib.error as error:
        raise Unreadable(f"broken gzip: {error}") from error
    if not inflating.eof:
        raise Unreadable("the gzip is cut off")


def _as_utf_8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
    for chunk in chunks:
        if text := decoder.decode(chunk):
            yield text.encode(errors="replace")

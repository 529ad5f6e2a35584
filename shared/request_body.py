# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the body of a request, one JSON object in UTF-8, becomes the request of its subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bound=msgspec.Struct)


class Malformed(Exception):
    """The body is no such request. The message says why."""


def reader(kind: type[T]) -> Callable[[bytes], T]:
    """Return what reads a body, and raises Malformed where it is no request of this kind."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> T:
        try:
            if not body.isascii():
                body.decode()  # msgspec skips the bytes of fields that it does not know
            return decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(str(error)) from error

    return read

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: JSON in UTF-8 becomes a struct, and every way in which it cannot is one error."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Malformed(Exception):
    """The bytes do not hold what was expected. The message says why."""


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Return a function that reads a `kind` from JSON, and raises Malformed where it cannot.

    msgspec raises three unrelated errors for bad input: of the JSON, of the UTF-8, of the depth.
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(data: bytes) -> T:
        try:
            if not data.isascii():
                data.decode()  # msgspec does not check the bytes of fields that it skips
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(str(error)) from error

    return read

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: decodes JSON in UTF-8 into a struct, and raises one error for all kinds of bad input."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Malformed(msgspec.DecodeError):
    """The bytes are not the JSON that was expected. The message is the reason."""


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Return a function that decodes a `kind` from JSON, or raises Malformed.

    msgspec raises three unrelated errors: for the JSON, for the UTF-8 and for the depth of nesting.
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(data: bytes) -> T:
        try:
            if not data.isascii():
                data.decode()  # msgspec does not check the UTF-8 of unknown fields
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(str(error)) from error

    return read

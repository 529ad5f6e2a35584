# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: decodes JSON in UTF-8 into a struct, and raises one error for all kinds of bad input."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


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


def request_decoder(kind: type[S], is_whole: Callable[[S], object]) -> Callable[[bytes], S]:
    """Return a decoder of requests; one that lacks what it needs is read again, with the names of fields in any case.

    Programs in Go read names so, and their callers may not know the difference (golang/go#14750).
    """
    read = decoder(kind)
    names = {name.lower(): name for name in (field.encode_name for field in msgspec.structs.fields(kind))}

    def read_request(data: bytes) -> S:
        request = read(data)
        return request if is_whole(request) else _renamed(data, kind, names)

    return read_request


def _renamed(data: bytes, kind: type[S], names: Mapping[str, str]) -> S:
    """Decode a `kind` whose fields may have names in another case; an exact name counts before others."""
    try:
        fields: dict[str, object] = msgspec.json.decode(data, type=dict)
        exact = {name: value for name, value in fields.items() if name in names.values()}
        others = {names[name.lower()]: value for name, value in fields.items() if name.lower() in names}
        return msgspec.convert({**others, **exact}, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error

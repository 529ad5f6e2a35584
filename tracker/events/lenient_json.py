# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: decodes JSON; text that strict JSON refuses but that has one clear meaning is read in a second, lenient try.

Lenient: half a surrogate pair and bytes that are not UTF-8 (each becomes U+FFFD), raw control characters and unknown
escapes inside strings, numbers of any size, a byte order mark and NUL characters around the JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from shared.decoding import Malformed

REPLACEMENT: Final = "\ufffd"
AROUND: Final = " \t\r\n\0\ufeff\ufffe\u00ef\u00bb\u00bf"  # the last three: a byte order mark that was read as Latin-1

_GOOD = r'["\\/bfnrt]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
_ESCAPES = re.compile(rf"((?:\\(?:{_GOOD}))+)|\\(u[dD][89a-fA-F][0-9a-fA-F]{{2}})?")
_strict = msgspec.json.Decoder(Any).decode


def decode(text: str) -> Any:
    """Return the JSON value of a text, in a time that grows with its length.

    Raises:
        Malformed: it is not JSON, or is nested too deeply.
    """
    try:
        return _strict(text.encode())
    except (msgspec.DecodeError, UnicodeError):
        pass
    except RecursionError:
        raise Malformed("nested too deeply") from None
    try:
        return _decoder.decode(_ESCAPES.sub(_repaired, _joined(text).strip(AROUND)))
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from error


def _joined(text: str) -> str:
    """Join the halves of surrogate pairs; a half alone becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _repaired(escape: re.Match[str]) -> str:
    good, half = escape.groups()
    return good or (REPLACEMENT if half else r"\\")


# No number of an event is used; as float, one with any number of digits is read in little time.
_decoder = json.JSONDecoder(strict=False, parse_int=float)

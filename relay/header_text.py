# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: makes one line of text that people typed, for a subject or a display name.

Callers join such texts and rely on the service to remove what would break a header. Addresses are not cleaned: in them,
such characters are refused.
"""

from __future__ import annotations

import re
from typing import Final

_BREAKS: Final = r"\t\r\n"
_BREAK = re.compile(f"[{_BREAKS}]+")
_DROPPED: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # the other control characters: C0, DEL and C1
_CONTROL = re.compile(f"[{_DROPPED}]+")
_UNCLEAN = re.compile(f"[{_BREAKS}{_DROPPED}]")


def one_line(text: str) -> str:
    """Return the text without control characters; a text without them is unchanged, also with U+2028 or U+2029.

    A run of line breaks, tabs and the blanks around them becomes one blank, and nothing at the ends of the text.
    """
    if not _UNCLEAN.search(text):
        return text
    pieces = (piece.strip(" ") for piece in _BREAK.split(_CONTROL.sub("", text)))
    return " ".join(filter(None, pieces))

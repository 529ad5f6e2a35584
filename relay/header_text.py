# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: makes one line of text that people typed, for a subject or a display name.

Callers join such texts and rely on the service to remove what would break a header. Addresses are not cleaned: in them,
such characters are refused.
"""

from __future__ import annotations

import re
from typing import Final

_BREAKS: Final = r"\t\r\n\x85\u2028\u2029"  # some readers also break lines at NEL, LS and PS (Unicode, UAX 14)
_BREAK = re.compile(f"[{_BREAKS}]+")
_DROPPED: Final = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"  # the other controls: C0, DEL and C1
_CONTROL = re.compile(f"[{_DROPPED}]+")
_UNCLEAN = re.compile(f"[{_BREAKS}{_DROPPED}]")


def one_line(text: str) -> str:
    """Return the text without control characters; a text without them is unchanged.

    A run of line breaks, tabs and the blanks around them becomes one blank, and nothing at the ends of the text.
    """
    if not _UNCLEAN.search(text):
        return text
    pieces = (piece.strip(" ") for piece in _BREAK.split(_CONTROL.sub("", text)))
    return " ".join(filter(None, pieces))

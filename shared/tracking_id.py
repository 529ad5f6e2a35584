# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the value of X-LFX-TRACKING-ID, `<group>/<email_id>`, written by the relay and read back by the tracker."""

from __future__ import annotations

import re
from email.errors import MessageError
from email.header import decode_header, make_header
from urllib.parse import quote, unquote

HEADER = "X-LFX-TRACKING-ID"
_FOLD = re.compile(r"[\r\n]+[ \t]*")
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def format_value(group_id: str, email_id: str) -> str:
    """Return the value as one ASCII line; a group id with blanks, `%` or other characters is percent-encoded."""
    if group_id.isascii() and group_id.isprintable() and not (" " in group_id or "%" in group_id):
        return f"{group_id}/{email_id}"
    return f"{quote(group_id, safe=_PLAIN)}/{email_id}"


def email_id_of(value: str) -> str:
    """Return the email id of a value that may be folded, padded or RFC 2047 encoded; an empty string without one."""
    if "=?" in value:
        value = _decoded(value)
    return "".join(value.split()).rpartition("/")[2]


def group_id_of(value: str) -> str:
    """Return the group id of such a value; an empty string without one.

    A percent sign of the Go service, which does not encode the group id, stays unless it looks like an encoded byte.
    """
    if "=?" in value:
        value = _decoded(value)
    group = _FOLD.sub("", value.strip()).rpartition("/")[0]
    try:
        return unquote(group, errors="strict")
    except UnicodeDecodeError:
        return group


def _decoded(value: str) -> str:
    unfolded = " ".join(value.split())
    try:
        return str(make_header(decode_header(unfolded)))
    except (LookupError, ValueError, MessageError):  # unknown charset or broken base64
        return unfolded

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the errors of libraries as words for a user, without names of classes, error numbers and type names."""

from __future__ import annotations

import os
import re
from typing import Final

REFUSED_LOGIN: Final = "the login was refused"
_ERRNO: Final = re.compile(r"\[Errno (-?\d+)\]")
_ADDRESS: Final = re.compile(r"Connect call failed \('([^']+)', (\d+)")
_MSGSPEC: Final = re.compile(r"Expected `([^`]+)`(?:, got `[^`]+`)?(?: - at `\$\.?([^`]*)`)?")
_MISSING: Final = re.compile(r"Object missing required field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "datetime": "a time such as 2026-01-31T12:00:00Z",
    "null": "null",
}
_PHRASES: Final = (
    (
        re.compile(r"^nats: '?(?:authorization violation|.*authentication (?:failed|expired|revoked))", re.IGNORECASE),
        REFUSED_LOGIN,
    ),
    (re.compile(r"^(?:nats: )?unexpected eof\b", re.IGNORECASE), "the server closed the connection"),
    (re.compile(r"^nats: timeout$", re.IGNORECASE), "no answer in time"),
    (re.compile(r"^nats: connection closed$", re.IGNORECASE), "the connection was closed"),
    (re.compile(r"^nats: no servers available", re.IGNORECASE), "no server accepts a connection"),
    (re.compile(r"^Input data was truncated$"), "it is empty, or cut off"),
)


def in_words(error: BaseException) -> str:
    """Return the text of an error for a user; never the repr of an exception or a number of the system."""
    return _of_kind(error) or reworded(str(error)) or _name(error)


def reworded(text: str) -> str:
    """Return the text of an error of a library or of the system in words."""
    for pattern, phrase in _PHRASES:
        if pattern.search(text):
            return phrase
    return _of_numbers(text) or _of_msgspec(text) or text.removeprefix("nats: ")


def _of_kind(error: BaseException) -> str:
    """Return the text of an error whose kind says more than its message. Pure modules do not import ssl and socket."""
    if why := getattr(error, "verify_message", ""):
        return f"the certificate is not accepted: {why}"
    kind, reason = type(error).__name__, getattr(error, "reason", "")
    if kind.startswith("SSL") and isinstance(reason, str) and reason:
        return f"TLS failed: {reason.lower().replace('_', ' ')}"
    if kind == "gaierror" and isinstance(error, OSError):
        is_unknown = "not known" in str(error) or "nodename" in str(error)
        return "the name of the host is not known" if is_unknown else str(error.strerror).lower()
    if isinstance(error, TimeoutError) and not error.errno:
        return reworded(str(error)) or "no answer in time"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return ""


def _of_numbers(text: str) -> str:
    """Return the meanings of the error numbers in a text; one for each kind, since each address of a name has one."""
    numbers = dict.fromkeys(int(number) for number in _ERRNO.findall(text))
    meanings = "; ".join(os.strerror(number).lower() for number in numbers if number > 0)
    addresses = ", ".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in _ADDRESS.findall(text)
    )
    return f"{meanings}: {addresses}" if meanings and addresses else meanings


def _of_msgspec(text: str) -> str:
    if missing := _MISSING.search(text):
        return f"{'.'.join(filter(None, (missing[2], missing[1])))} is missing"
    if wrong := _MSGSPEC.search(text):
        kinds = [_KINDS.get(kind.strip(), kind.strip()) for kind in wrong[1].split("|")]
        return f"{wrong[2] or 'it'} is not {' or '.join(kinds)}"
    return ""


def _name(error: BaseException) -> str:
    """Return the name of a class as words: `IncompleteReadError` is `incomplete read`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", type(error).__name__)
    return " ".join(words).lower().removesuffix(" error")

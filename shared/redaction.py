# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: redacts addresses, credentials and tokens for logs and output. All patterns take linear time."""

from __future__ import annotations

import re
from typing import Final

from shared import error_texts

_ATOM = r"[^\s<>\"(),:;@\[\]]"
# A local part is tried only at its first character, so that the time does not grow with the square of the length.
_ADDRESS = re.compile(rf"""((?<!\\)"(?:[^"\\]|\\.)*"|(?<!{_ATOM}){_ATOM}+)@[^\s<>"'(),;@]+""")
_USER_INFO = re.compile(r"(?<=://)(?:(?!://).)*(?=@)", re.DOTALL)
_USER_INFO_IN_TEXT = re.compile(r"(?<=://)(?:(?!://)\S)*(?=@)")
_DOMAIN_END = re.compile(r"""[\s<>"'(),;]""")
_MAX_DOMAIN = 255  # octets (RFC 5321, 4.5.3.1.2); a longer one is cut, so that it makes no long line

_NAME: Final = (  # the end of a secret's name: `session_token`, `X-Amz-Security-Token`
    r"(?:token|secret|(?:access|secret|api)[-_ ]?key(?:[-_ ]?id)?|pass(?:word|wd|phrase)?|pwd"
    r"|credential|signature|cookie|nkey|jwt)"
)
_SECRETS: Final = tuple(
    (re.compile(pattern), shown)
    for pattern, shown in (
        # The value of a header, as http.client, urllib3, requests, botocore, gRPC and OpenTelemetry quote it.
        (r"(?i)(\bheader\b[^\n'\"]{0,200}?)b?['\"].*", r"\1***"),
        (r"(?i)(\bheader format invalid|\bmetadata was invalid)\b.*", r"\1: ***"),
        (r"(?i)(\bauthorization\b['\"]?\s*[:=,]).*", r"\1 ***"),
        # Names and values, in the forms of JSON, INI files, queries and canonical requests.
        (rf"(?i)({_NAME}['\"]?\s*=\s*)(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s&,;<]+)", r"\1***"),
        (rf"((?i:{_NAME})['\"]?\s*[:,]\s*['\"(]*)(?![a-z]+[.)]?(?:\s|$))[^\s&,;<'\"]{{4,}}", r"\1***"),
        # Kinds of secrets that are recognized without a name.
        (r"(?i)\b(bearer|basic|AWS4-HMAC-SHA256)\s+[^\s'\",;]{8,}", r"\1 ***"),
        (r"\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{8,}", r"\1***"),
        (r"\beyJ[\w-]{8,}(?:\.[\w-]*)*", "***"),  # a JSON Web Token, such as NATS's user JWT
        (r"\bS[A-Z][A-Z2-7]{50,}\b", "***"),  # the seed of an NKEY
    )
)
_BLOB = re.compile(r"[A-Za-z0-9+/_=-]{40,}")
_MAX_TEXT = 65_536


def address(mailbox: str) -> str:
    """Return an address with only its first letter and its domain: `a***@example.com`."""
    local, at, domain = mailbox.rpartition("@")
    if not at:
        return "***"
    first = local.rpartition("<")[2].strip().lstrip("\"'*")[:1]
    return f"{first}***@{_DOMAIN_END.split(domain[:_MAX_DOMAIN], maxsplit=1)[0]}"


def text(quoting: str) -> str:
    """Redact every address inside a text, such as a server's reply that quotes the recipient."""
    return _ADDRESS.sub(_address, quoting)


def _address(found: re.Match[str]) -> str:
    if found[0].startswith("//") and found.string[found.start() - 1 : found.start()] == ":":  # a URL with user info
        return "//" + address(found[0][2:])
    is_quoted = found[0].startswith("'") and found.string[found.end() : found.end() + 1] == "'"
    return "'" * is_quoted + address(found[0])


def identifier(given: str) -> str:
    """Redact addresses in an id that a caller chose, and in its key: `invite-ada@example.com`, `=ada=40a.org`."""
    return text(given.replace("=40", "@")) if "@" in given or "=40" in given else given


def urls(value: str) -> str:
    """Redact user, password or token in a value that is one URL or a list: `nats://***@host:4222`."""
    return _USER_INFO.sub("***", value)


def secrets(quoting: str) -> str:
    """Redact what the text of a library or server may quote: addresses, user info of URLs, credentials, tokens.

    A session token is recognized even without its name: 40 characters of base64 in which capitals, small letters and
    digits are mixed.
    """
    shown = _USER_INFO_IN_TEXT.sub("***", text(quoting[:_MAX_TEXT]))
    for pattern, replacement in _SECRETS:
        shown = pattern.sub(replacement, shown)
    return _BLOB.sub(_blob, shown)


def error(foreign: BaseException) -> str:
    """Return the text of an exception of a library, redacted; its repr if it has no text."""
    return secrets(str(foreign) or repr(foreign))


def in_words(foreign: BaseException) -> str:
    """Return an exception of a library as words for the user of a command, redacted."""
    return secrets(error_texts.in_words(foreign))


def _blob(found: re.Match[str]) -> str:
    blob = found[0]
    is_random = not blob.isupper() and not blob.islower() and any(map(str.isdigit, blob))
    return "***" if is_random else blob

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the URL for a one-click unsubscription (RFC 8058) in the form for List-Unsubscribe (RFC 2369).

Characters that a URI cannot hold at their place are percent-encoded (RFC 3986, 3). Characters that could end the header
or its brackets are refused.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import quote, urlsplit

from shared import addresses

MAX_BYTES: Final = 968  # the header is one line of at most 989 bytes, without folding: see `mime`

_REFUSED = re.compile(r'[\0-\x20\x7f-\xa0"<>\\\u2028\u2029]')
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH: Final = "%/:@!$&'()*+,;=~"  # letters, digits, `-`, `.` and `_` are safe anyway
_QUERY: Final = _PATH + "?"


class Malformed(Exception):
    """The text is not an https URL, or it is too long for a header."""


def parse(given: str) -> str:
    """Return the URL in ASCII.

    Raises:
        Malformed: a mail program could not use the text to unsubscribe.
    """
    if _REFUSED.search(given):
        raise Malformed(given)
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Malformed(given) from error
    if parts.scheme != "https" or not host or "@" in parts.netloc:
        raise Malformed(given)
    before, _, rest = given.partition(parts.netloc)
    url = before + _netloc(parts.netloc, host) + _encoded(rest)
    if len(url) > MAX_BYTES:
        raise Malformed(given)
    return url


def _netloc(netloc: str, host: str) -> str:
    """Return the host as given, or in A-labels, with its port."""
    try:
        if netloc.startswith("["):
            ipaddress.IPv6Address(host)
            return netloc
        wire_host = addresses.wire_domain(host.removesuffix("."))
    except ValueError as error:  # that of addresses, too
        raise Malformed(netloc) from error
    port = re.search(r":\d*$", netloc)
    return netloc if netloc.isascii() else f"{wire_host}{port.group() if port else ''}"


def _encoded(rest: str) -> str:
    """Encode path, query and fragment; a percent sign stays only before two hexadecimal digits."""
    rest = _LONE_PERCENT.sub("%25", rest)
    before, hash_sign, fragment = rest.partition("#")
    path, question_mark, query = before.partition("?")
    encoded = quote(path, safe=_PATH), quote(query, safe=_QUERY), quote(fragment, safe=_QUERY)
    return f"{encoded[0]}{question_mark}{encoded[1]}{hash_sign}{encoded[2]}"

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the URL for a one-click unsubscription (RFC 8058) in the form for List-Unsubscribe (RFC 2369).

Characters that a URI cannot hold are percent-encoded. Characters that could end the header or its brackets are refused.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

from shared import addresses

MAX_BYTES: Final = 998 - len("List-Unsubscribe: <>")  # one line, without folding: RFC 5322, 2.1.1

_REFUSED = re.compile(r'[\0-\x20\x7f-\xa0"<>\\\u2028\u2029]')
_URI: Final = "%:/?#[]@!$&'()*+,;=~"  # RFC 3986, 2; letters, digits, `-`, `.` and `_` are safe anyway


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
    url = _encoded(given, parts.netloc, host)
    if len(url) > MAX_BYTES:
        raise Malformed(given)
    return url


def _encoded(given: str, netloc: str, host: str) -> str:
    if netloc.isascii():
        return quote(given, safe=_URI)
    try:
        wire_host = addresses.wire_domain(host)
    except addresses.Malformed as error:
        raise Malformed(given) from error
    before, _, after = given.partition(netloc)
    port = re.search(r":\d*$", netloc)
    return f"{before}{wire_host}{port.group() if port else ''}{quote(after, safe=_URI)}"

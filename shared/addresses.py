# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: exactly one mailbox (RFC 5322, 3.4), ready for the wire, and the domain allowlists.

The parsers of Python's library accept text that is not an address (python/cpython#102988). This one accepts the grammar
of section 3, with comments and quoted strings, and of the obsolete grammar (section 4) only dots in a name.
"""

from __future__ import annotations

import ipaddress
import re
from email.errors import MessageError
from email.header import decode_header, make_header
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_FIELD_BYTES: Final = 512
MAX_ADDRESS_BYTES: Final = 254  # RFC 5321, 4.5.3.1.3, less the angle brackets
MAX_LOCAL_PART_BYTES: Final = 64  # RFC 5321, 4.5.3.1.1

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
# What is neither a dot nor ATEXT nor UTF-8 (from U+00A0, RFC 6532, 3.2). Python would compile a set of UTF-8 for 6 ms.
_OTHERS = r'\x00-\x20"(),:;<>@\[\\\]\x7f-\x9f'
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"

_BARE = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@({_LABEL}(?:\.{_LABEL})*)")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")  # with lone surrogates
_BLANKS = re.compile(r"[ \t]*")
_DOT_ATOM = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*")
_WORD = re.compile(rf"[^.{_OTHERS}][^{_OTHERS}]*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_HOST = re.compile(rf"[^.{_OTHERS}]+(?:[.\u3002\uff0e\uff61][^.{_OTHERS}]+)*")
_LITERAL = re.compile(r"\[(?:[0-9.]+|(?i:ipv6):[0-9a-fA-F:.]+)\]")
_TABS = re.compile(r" *\t[ \t]*")
_ENCODED_WORD = re.compile(r"=\?[^?]*\?[^?]*\?[^?]*\?=")
_WIRE_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class Malformed(ValueError):
    """The text is not exactly one mailbox that SES accepts."""


class TooLong(ValueError):
    """The field, the address or its local part exceeds its limit."""


class Mailbox(msgspec.Struct, frozen=True):
    """One mailbox: `local_part` and `domain` (A-labels) as sent over SMTP, `name` decoded and possibly empty."""

    local_part: str
    domain: str
    name: str = ""

    @property
    def address(self) -> str:
        """The address without the name, in ASCII."""
        return f"{self.local_part}@{self.domain}"


def parse(text: str) -> Mailbox:
    """Parse one mailbox, with or without a name; outer blanks are ignored.

    Raises:
        TooLong: a limit is exceeded.
        Malformed: the text is not one mailbox, or its local part is not ASCII (SES has no SMTPUTF8) or has an encoded
            word, which RFC 2047, 5 forbids and some readers decode.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_FIELD_BYTES:
        raise TooLong(text)
    text = text.strip(" \t")
    bare = _BARE.fullmatch(text)
    mailbox = Mailbox(bare[1], bare[2]) if bare else _Scanner(text).mailbox()
    if _ENCODED_WORD.search(mailbox.local_part):
        raise Malformed(text)
    if len(mailbox.local_part) > MAX_LOCAL_PART_BYTES or len(mailbox.address) > MAX_ADDRESS_BYTES:
        raise TooLong(text)
    return mailbox


def wire_domain(domain: str) -> str:
    """Return the domain in A-labels (RFC 5891).

    Raises:
        Malformed: the domain cannot be encoded.
    """
    if not domain.isascii():
        import idna  # noqa: PLC0415 - its tables take 2 MB, and few domains need them

        try:
            domain = idna.encode(domain, uts46=True).decode()
        except idna.IDNAError as error:
            raise Malformed(domain) from error
    if not _WIRE_HOST.fullmatch(domain):
        raise Malformed(domain)
    return domain


def is_listed(mailbox: Mailbox, domains: Collection[str]) -> bool:
    """Return whether the domain is one of `domains`; case is ignored."""
    return mailbox.domain.lower() in domains


def is_below(mailbox: Mailbox, domains: Collection[str]) -> bool:
    """Return whether the domain is one of `domains` or a subdomain of one; case is ignored."""
    domain = mailbox.domain.lower()
    return any(domain == one or domain.endswith(f".{one}") for one in domains)


class _Scanner:
    """Parses a text from left to right. Each method reads the element it is named after, or raises Malformed."""

    def __init__(self, text: str) -> None:
        if _CONTROLS.search(text):
            raise Malformed(text)
        self._text = text
        self._at = 0

    def mailbox(self) -> Mailbox:
        self._comments()
        start = self._at
        try:
            local_part, domain = self._addr_spec()
        except Malformed:
            self._at = start
            return self._named()
        self._end()
        return Mailbox(local_part, domain)

    def _named(self) -> Mailbox:
        name = self._phrase()
        self._literally("<")
        self._comments()
        local_part, domain = self._addr_spec()
        self._literally(">")
        self._comments()
        self._end()
        return Mailbox(local_part, domain, name)

    def _addr_spec(self) -> tuple[str, str]:
        local_part = self._local_part()
        self._comments()
        self._literally("@")
        self._comments()
        domain = self._domain()
        self._comments()
        return local_part, domain

    def _local_part(self) -> str:
        if quoted := self._take(_QUOTED):
            content = re.sub(r"\\(.)", r"\1", quoted[1])
            if not (content.isascii() and content.isprintable()):  # RFC 5321, 4.1.2: no tab
                raise Malformed(self._text)
            return content if _DOT_ATOM.fullmatch(content) else '"' + re.sub(r'(["\\])', r"\\\1", content) + '"'
        return self._needed(_DOT_ATOM)

    def _domain(self) -> str:
        literal = self._take(_LITERAL)
        if not literal:
            return wire_domain(self._needed(_HOST))
        try:
            _check_literal(literal[0][1:-1])
        except ValueError as error:
            raise Malformed(self._text) from error
        return literal[0]

    def _phrase(self) -> str:
        words = []
        while word := self._take(_QUOTED) or self._take(_WORD):
            words.append(re.sub(r"\\(.)", r"\1", word[1]) if word[0][0] == '"' else word[0])
            self._comments()
        return _TABS.sub(" ", _decoded(" ".join(words))).strip()  # a tab may stand for a blank (RFC 5322, 3.2.2)

    def _comments(self) -> None:
        """Skip blanks and comments, which nest (RFC 5322, 3.2.2: CFWS)."""
        depth = 0
        while True:
            if not depth:
                self._take(_BLANKS)
            match self._text[self._at : self._at + 1]:
                case "(":
                    depth += 1
                case ")" if depth:
                    depth -= 1
                case "\\" if depth:
                    self._at += 1
                case "":
                    if depth:
                        raise Malformed(self._text)
                    return
                case _ if not depth:
                    return
            self._at += 1

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()
        return match

    def _needed(self, pattern: re.Pattern[str]) -> str:
        match = self._take(pattern)
        if not match:
            raise Malformed(self._text)
        return match[0]

    def _literally(self, character: str) -> None:
        if self._text[self._at : self._at + 1] != character:
            raise Malformed(self._text)
        self._at += 1

    def _end(self) -> None:
        if self._at != len(self._text):
            raise Malformed(self._text)


def _check_literal(address: str) -> None:
    """Check an address literal without its brackets (RFC 5321, 4.1.3); no tag but `IPv6` is standardized.

    Raises:
        ValueError: it is no address.
    """
    tag, colon, rest = address.partition(":")
    if colon:
        ipaddress.IPv6Address(rest)
    else:
        ipaddress.IPv4Address(tag)


def _decoded(name: str) -> str:
    """Decode encoded words (RFC 2047) in a name."""
    if "=?" not in name:
        return name
    try:
        decoded = str(make_header(decode_header(name)))
    except (LookupError, ValueError, MessageError):  # it is not a valid encoded word
        return name
    if _CONTROLS.search(decoded):
        raise Malformed(name)
    return decoded

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Parsing exactly one mailbox: accepted and refused texts, and agreement with the parsers of Python's library."""

from __future__ import annotations

import email.utils
import re
from email.headerregistry import HeaderRegistry
from email.utils import parseaddr
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared import addresses
from shared.addresses import Mailbox, Malformed, TooLong
from tests.shared.address_examples import ACCEPTED, REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable

# By default, newer versions of Python do not parse address literals.
LENIENT: Final[dict[str, bool]] = {"strict": False} if hasattr(email.utils, "supports_strict_parsing") else {}
PROPERTY = settings(max_examples=200)
ATEXT = "abcXYZ0189!#$%&'*+-/=?^_`{|}~"


@pytest.mark.parametrize("group", ACCEPTED)
def test_one_mailbox_is_parsed_to_its_form_on_the_wire(group: str) -> None:
    for text, local_part, domain, name in ACCEPTED[group]:
        assert addresses.parse(text) == Mailbox(local_part, domain, name), text


@pytest.mark.parametrize("group", REFUSED)
def test_a_text_that_is_not_one_mailbox_is_refused(group: str) -> None:
    assert [text for text in REFUSED[group] if is_accepted(text)] == []


def is_accepted(text: str) -> bool:
    try:
        addresses.parse(text)
    except Malformed:
        return False
    return True


@pytest.mark.parametrize(
    "frame",
    ["{}", "<{}>", "Anna <{}>", "(c) {} (c)", "{} "],
)
def test_an_address_of_254_characters_is_accepted_and_a_longer_one_is_not(frame: str) -> None:
    longest = f"{'l' * 64}@{'d' * 62}.{'e' * 62}.{'f' * 63}"
    assert len(longest) == 254
    assert addresses.parse(frame.format(longest)).address == longest
    for too_long in (longest.replace("@", "@d"), f"{longest[1:]}.f", f"a@{'d.' * 150}d", f"{'l' * 65}@example.com"):
        with pytest.raises(TooLong):
            addresses.parse(frame.format(too_long))


@pytest.mark.parametrize("local_part", ['"' + "l" * 61 + ' "', '"' + "\\\\" * 31 + '"', "l" * 64])
def test_quotes_and_backslashes_count_in_a_local_part(local_part: str) -> None:
    assert addresses.parse(f"{local_part}@example.com").local_part == local_part
    longer = local_part.replace("l", "ll", 1) if "l" in local_part else local_part.replace('"', '"x', 1)
    with pytest.raises(TooLong):
        addresses.parse(f"{longer}@example.com")


@pytest.mark.parametrize(
    ("filler", "count"), [("x", 512), ("é", 256), ("日", 170), ("😀", 128), (" ", 512), ("(c)", 170), ("\ud83d", 170)]
)
def test_any_field_over_512_bytes_is_too_long(filler: str, count: int) -> None:
    with pytest.raises(TooLong):
        addresses.parse(f"{filler * count} <a@example.com>")


@pytest.mark.parametrize("filler", ["x", "é", "日", "😀", " "])
def test_a_field_of_exactly_512_bytes_is_accepted_and_of_513_is_not(filler: str) -> None:
    name, rest = "x", " <a@example.com>"
    name += filler * ((511 - len(rest)) // len(filler.encode()))
    text = name + "x" * (512 - len((name + rest).encode())) + rest
    assert len(text.encode()) == 512
    assert addresses.parse(text).address == "a@example.com"
    with pytest.raises(TooLong):
        addresses.parse(f"{text} ")


def test_an_ascii_domain_is_sent_unchanged() -> None:
    for domain in ("example.com", "EXAMPLE.com", "a.b", "localhost", "a-b.example", "_dmarc.example"):
        assert addresses.wire_domain(domain) == domain


@pytest.mark.parametrize("domain", ["", ".", "a.", "a..b", "*.example", "a b", "-a", "https://a.example", "ü..b"])
def test_a_text_that_is_not_a_domain_is_refused(domain: str) -> None:
    with pytest.raises(Malformed):
        addresses.wire_domain(domain)


@pytest.mark.parametrize(
    ("domain", "listed", "below"),
    [
        ("example.com", True, True),
        ("EXAMPLE.Com", True, True),
        ("sub.example.com", False, True),
        ("a.b.EXAMPLE.COM", False, True),
        ("notexample.com", False, False),
        ("example.com.evil.example", False, False),
        ("com", False, False),
        ("xample.com", False, False),
        ("example-com", False, False),
        ("example.org", False, False),
        ("[example.com]", False, False),
        ("xn--bcher-kva.example", True, True),
        ("a.xn--bcher-kva.example", False, True),
    ],
)
def test_a_domain_is_listed_exactly_and_below_another_only_at_a_dot(domain: str, *, listed: bool, below: bool) -> None:
    domains = ("example.com", "xn--bcher-kva.example")
    assert addresses.is_listed(Mailbox("a", domain), frozenset(domains)) is listed
    assert addresses.is_below(Mailbox("a", domain), domains) is below


@pytest.mark.parametrize("allowed", [addresses.is_listed, addresses.is_below])
def test_an_empty_list_allows_no_domain(allowed: Callable[[Mailbox, tuple[str, ...]], bool]) -> None:
    assert not allowed(Mailbox("a", "example.com"), ())
    assert not allowed(Mailbox("a", ""), ())


def joined(*parts: Any) -> st.SearchStrategy[str]:
    """Concatenate texts."""
    strategies = [st.just(part) if isinstance(part, str) else part for part in parts]
    return st.tuples(*strategies).map("".join)


def quoted(alphabet: Any) -> st.SearchStrategy[str]:
    """Quote a text, sometimes with unnecessary backslashes."""
    character = st.text(alphabet, min_size=1, max_size=1)
    escaped = st.one_of(
        character.map(lambda it: f"\\{it}" if it in '"\\' else it), character.map(lambda it: f"\\{it}"), character
    )
    return st.lists(escaped, max_size=8).map(lambda them: f'"{"".join(them)}"')


dot_atoms = st.lists(st.text(ATEXT, min_size=1, max_size=8), min_size=1, max_size=3).map(".".join)
local_parts = st.one_of(dot_atoms, quoted("ab\"\\ @<>,;:()[].=?'~"))
labels = st.one_of(
    st.text("abcXYZ019-_", min_size=1, max_size=8),
    st.text("äßあ例é\u0308\uff41-a", min_size=1, max_size=5),
    st.just("xn--bcher-kva"),
)
dots = st.sampled_from([".", ".", ".", "。", "\uff0e", "｡", ".."])
hosts = st.one_of(labels, joined(labels, dots, labels), joined(labels, dots, labels, dots, labels))
domains = st.one_of(hosts, hosts, hosts, st.text("0123456789.:IPv6abc[]", max_size=15).map(lambda it: f"[{it}]"))
blanks = st.sampled_from(["", "", " ", "\t", " (c) ", "(a(b)c)", r"(\))", "(<x@y>,", "(ü)", "(", ")"])
words = st.one_of(
    dot_atoms,
    quoted('aé日"\\ ,<>@()\u2028😀'),
    st.text("Äé日.a", min_size=1, max_size=5),
    st.from_regex(r"=\?(utf-8|iso-8859-1|utf-7|x|é|)\?[bqBQ]\?[!->@-~]{0,12}\?=", fullmatch=True),
)
phrases = st.lists(words, max_size=3).map(" ".join)
addr_specs = joined(blanks, local_parts, blanks, "@", blanks, domains, blanks)
plausible = st.one_of(addr_specs, joined(phrases, " <", addr_specs, ">", blanks))
oddities = st.one_of(st.characters(), st.sampled_from([*'"\\<>@,;:()[]. \t\r\n\0\x0b\x7f=?']))
mutated = st.tuples(plausible, st.integers(0, 60), oddities, st.booleans()).map(
    lambda it: it[0][: it[1]] + it[2] + it[0][it[1] + it[3] :]
)
texts = st.one_of(plausible, plausible, mutated, st.text(oddities, max_size=40))


@PROPERTY
@given(texts)
@example("=?utf-8?b?A?= <a@example.com>")
@example("\ud800@\udfff")
@example('"a,b<c>@d"@example.com')
def test_any_text_is_refused_or_is_the_same_mailbox_for_every_parser(text: str) -> None:
    """An accepted mailbox is ASCII on the wire, and the parsers of Python's library find the same mailbox there."""
    try:
        mailbox = addresses.parse(text)
    except (Malformed, TooLong):
        return
    assert mailbox.address.isascii()
    assert mailbox.address.isprintable()
    assert 3 <= len(mailbox.address) <= 254
    assert len(mailbox.local_part) <= 64
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]", mailbox.name)
    assert addresses.parse(f"<{mailbox.address}>") == Mailbox(mailbox.local_part, mailbox.domain)
    assert parseaddr(f"<{mailbox.address}>", **LENIENT)[1] == mailbox.address
    header: Any = HeaderRegistry()("To", f"<{mailbox.address}>")
    [address] = header.addresses
    assert (address.username, address.domain) == (unquoted(mailbox.local_part), mailbox.domain)
    assert header.defects == ()


def unquoted(local_part: str) -> str:
    return re.sub(r"\\(.)", r"\1", local_part[1:-1]) if local_part.startswith('"') else local_part

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Which URLs are accepted for List-Unsubscribe, and in which form."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import unsubscribe_url

LINE_BYTES = 988


@pytest.mark.parametrize(
    "url",
    [
        "https://lfx.dev/u",
        "https://lfx.dev",
        "HTTPS://LFX.dev/U",
        "https://lfx.dev:8443/u?token=a%2Bb%20c&list=1;x=(1),*!'$?/@:#top~/?",
        "https://a_b.lfx.dev./u",
        "https://[2001:db8::1]/u",
        "https://lfx.dev/" + "x" * (LINE_BYTES - len("List-Unsubscribe: <https://lfx.dev/>")),
    ],
)
def test_a_uri_is_accepted_unchanged(url: str) -> None:
    assert unsubscribe_url.parse(url) == url


@pytest.mark.parametrize(
    ("given", "encoded"),
    [
        ("https://lfx.dev/u?off=50%", "https://lfx.dev/u?off=50%25"),
        ("https://lfx.dev/u?off=50%&t=1", "https://lfx.dev/u?off=50%25&t=1"),
        ("https://lfx.dev/u/%zz", "https://lfx.dev/u/%25zz"),
        ("https://lfx.dev/%a", "https://lfx.dev/%25a"),
        ("https://lfx.dev/%%41%", "https://lfx.dev/%25%41%25"),
        ("https://lfx.dev/%4\u0661", "https://lfx.dev/%254%D9%A1"),
        ("https://lfx.dev/u?ids[]=7", "https://lfx.dev/u?ids%5B%5D=7"),
        ("https://lfx.dev/[x]/u#[y]", "https://lfx.dev/%5Bx%5D/u#%5By%5D"),
        ("https://lfx.dev/u#a#b", "https://lfx.dev/u#a%23b"),
        ("https://lfx.dev/a|b{c}^`d", "https://lfx.dev/a%7Cb%7Bc%7D%5E%60d"),
        ("https://[2001:db8::1]:8443/u%", "https://[2001:db8::1]:8443/u%25"),
        ("https://lfx.dev?a=%", "https://lfx.dev?a=%25"),
    ],
)
def test_what_a_uri_cannot_hold_at_its_place_is_percent_encoded(given: str, encoded: str) -> None:
    assert unsubscribe_url.parse(given) == encoded
    assert unsubscribe_url.parse(encoded) == encoded


@pytest.mark.parametrize("host", ["a%20b", "%6cfx.dev", "lfx..dev", ".dev", "[::zz]", "[v1.x]", "-lfx.dev", "a*b"])
def test_a_host_that_is_not_a_name_or_address_is_refused(host: str) -> None:
    with pytest.raises(unsubscribe_url.Malformed):
        unsubscribe_url.parse(f"https://{host}/u")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("https://lfx.dev/é?name=Zoë", "https://lfx.dev/%C3%A9?name=Zo%C3%AB"),
        ("https://lfx.dev/{id}|^`", "https://lfx.dev/%7Bid%7D%7C%5E%60"),
        ("https://bücher.example:8443/é", "https://xn--bcher-kva.example:8443/%C3%A9"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://lfx.dev/\u202e😀", "https://lfx.dev/%E2%80%AE%F0%9F%98%80"),
    ],
)
def test_characters_that_a_uri_cannot_hold_are_encoded(given: str, taken: str) -> None:
    assert unsubscribe_url.parse(given) == taken


@pytest.mark.parametrize(
    "url",
    [
        "http://lfx.dev/u",
        "mailto:leave@lfx.dev",
        "//lfx.dev/u",
        "https:",
        "https:///u",
        "https://:443/u",
        "https://lfx.dev:port/u",
        "https://[lfx.dev/u",
        "https://user:secret@lfx.dev/u",
        "https://lfx.dev/u\r\nBcc: x@evil.example",
        "https://lfx.dev/\0",
        "https://lfx.dev/a b",
        "https://lfx.dev/u>, <https://evil.example/u",
        'https://lfx.dev/"',
        "https://lfx.dev\\@evil.example/u",
        "https://lfx.dev/\x85\u2028",
        "https://bü cher.example/u",
        "https://bü..cher.example/u",
        "https://lfx.dev/" + "x" * (LINE_BYTES - len("List-Unsubscribe: <https://lfx.dev/>") + 1),
        "https://lfx.dev/" + "é" * 200,
    ],
)
def test_a_url_that_is_not_https_or_would_end_its_brackets_is_refused(url: str) -> None:
    with pytest.raises(unsubscribe_url.Malformed):
        unsubscribe_url.parse(url)


@given(st.text(max_size=60))
def test_an_accepted_url_is_ascii_without_brackets_and_decodes_to_the_original(rest: str) -> None:
    try:
        url = unsubscribe_url.parse(f"https://lfx.dev/{rest}")
    except unsubscribe_url.Malformed:
        return
    assert re.fullmatch(r"[!-;=?-~]+", url)
    assert urlsplit(url).hostname == "lfx.dev"
    assert unquote(url) == unquote(f"https://lfx.dev/{rest}")

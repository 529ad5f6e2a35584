# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What may stand in List-Unsubscribe, and in which form."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import unsubscribe_url

LINE_BYTES = 998


@pytest.mark.parametrize(
    "url",
    [
        "https://lfx.dev/u",
        "https://lfx.dev",
        "HTTPS://LFX.dev/U",
        "https://lfx.dev:8443/u?token=a%2Bb%20c&list[]=1;x=(1),*!'$#top~",
        "https://[2001:db8::1]/u",
        "https://lfx.dev/100%",
        "https://lfx.dev/" + "x" * (LINE_BYTES - len("List-Unsubscribe: <https://lfx.dev/>")),
    ],
)
def test_a_uri_is_taken_unaltered(url: str) -> None:
    assert unsubscribe_url.parse(url) == url


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
def test_what_no_uri_holds_is_encoded(given: str, taken: str) -> None:
    assert unsubscribe_url.parse(given) == taken


@pytest.mark.parametrize(
    "url",
    [
        "http://lfx.dev/u",
        "mailto:leave@lfx.dev",
        "javascript:alert(1)",
        "//lfx.dev/u",
        "lfx.dev/u",
        "https:",
        "https:///u",
        "https://:443/u",
        "https://lfx.dev:port/u",
        "https://[lfx.dev/u",
        "https://user:secret@lfx.dev/u",
        "https://lfx.dev/u\r\nBcc: x@evil.example",
        "https://lfx.dev/u\n",
        "https://lfx.dev/\0",
        "https://lfx.dev/a b",
        " https://lfx.dev/u",
        "https://lfx.dev/\t",
        "https://lfx.dev/u>, <https://evil.example/u",
        "https://lfx.dev/<",
        'https://lfx.dev/"',
        "https://lfx.dev\\@evil.example/u",
        "https://lfx.dev/\x85\u2028",
        "https://bü cher.example/u",
        "https://bü..cher.example/u",
        "https://lfx.dev/" + "x" * (LINE_BYTES - len("List-Unsubscribe: <https://lfx.dev/>") + 1),
        "https://lfx.dev/" + "é" * 200,
    ],
)
def test_what_nobody_could_ask_or_what_would_leave_its_brackets_is_refused(url: str) -> None:
    with pytest.raises(unsubscribe_url.Malformed):
        unsubscribe_url.parse(url)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_whatever_is_taken_is_ascii_inside_its_brackets_and_says_the_same(rest: str) -> None:
    try:
        url = unsubscribe_url.parse(f"https://lfx.dev/{rest}")
    except unsubscribe_url.Malformed:
        return
    assert re.fullmatch(r"[!-;=?-~]+", url)
    assert urlsplit(url).hostname == "lfx.dev"
    assert unquote(url) == unquote(f"https://lfx.dev/{rest}")

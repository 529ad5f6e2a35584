# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Which URLs are accepted for List-Unsubscribe, and in which form."""

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
def test_a_uri_is_accepted_unchanged(url: str) -> None:
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


@settings(deadline=None)
@given(st.text(max_size=60))
def test_an_accepted_url_is_ascii_without_brackets_and_decodes_to_the_original(rest: str) -> None:
    try:
        url = unsubscribe_url.parse(f"https://lfx.dev/{rest}")
    except unsubscribe_url.Malformed:
        return
    assert re.fullmatch(r"[!-;=?-~]+", url)
    assert urlsplit(url).hostname == "lfx.dev"
    assert unquote(url) == unquote(f"https://lfx.dev/{rest}")

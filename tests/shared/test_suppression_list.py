# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each address has one key in the suppression list, in all spellings."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import addresses, suppression_list


@pytest.mark.parametrize(
    ("given_address", "normal"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Ada@Example.COM", "ada@example.com"),
        (" Ada <ada@example.com>\n", "ada@example.com"),
        ('"Lovelace, Ada" <ada@example.com>', "ada@example.com"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@BÜCHER.example", "ada@xn--bcher-kva.example"),
        ("ada+tag@example.com", "ada+tag@example.com"),
        ('"ada"@x.org', "ada@x.org"),
        (r'"a\da.b"@x.org', "ada.b@x.org"),
        ('"Ada L"@x.org', '"ada l"@x.org'),
    ],
)
def test_an_address_is_normalised_without_name_and_case(given_address: str, normal: str) -> None:
    assert suppression_list.normalised(given_address) == normal


@pytest.mark.parametrize("text", ["", "ada@bü..x", "jörg@x.org", "a@x.org, b@x.org"])
def test_a_text_that_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(addresses.Malformed):
        suppression_list.normalised(text)


def test_the_key_is_the_sha_256_of_the_address() -> None:
    assert suppression_list.key_of("ada@example.com") == hashlib.sha256(b"ada@example.com").hexdigest()


# Addresses that the relay accepts, as people and mail programs write them.
atoms = st.text("aZ0+=!", min_size=1, max_size=5)
dotted = st.lists(atoms, min_size=1, max_size=3).map(".".join)
quoted = st.text('aZ0.@,<(" \\', min_size=1, max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
domains = st.sampled_from(
    [
        "x.org",
        "X.Org",
        "bücher.example",
        "BÜCHER.Example",
        "xn--BCHER-kva.example",
        "straße.de",
        "\uff58\u3002org",
        "[192.0.2.1]",
    ]
)
mailboxes = st.builds(
    "{}{}@{}{}".format,
    st.sampled_from(["", " ", "(c) "]),
    st.one_of(dotted, dotted.map('"{}"'.format), quoted),
    domains,
    st.sampled_from(["", "\t", " (c)"]),
)
written = st.one_of(
    st.emails(), mailboxes, mailboxes.map("Ada <{}>".format), mailboxes.map('"Lovelace, A." <{}>'.format)
)


@given(written)
def test_relay_tracker_and_operator_use_the_same_key(text: str) -> None:
    try:
        recipient = addresses.parse(text).address
    except (addresses.Malformed, addresses.TooLong):
        return
    looked_up = recipient.lower()  # as the relay does
    for echoed in (text, recipient, recipient.upper(), f"<{recipient}>", looked_up):
        assert suppression_list.normalised(echoed) == looked_up

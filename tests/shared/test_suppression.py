# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One address has one key, however it is written."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import addresses
from shared import suppression


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
    ],
)
def test_an_address_is_compared_without_name_and_case(given_address: str, normal: str) -> None:
    assert suppression.normalised(given_address) == normal


@pytest.mark.parametrize("text", ["", "ada", "@example.com", "ada@", "<>", "ada@bü..cher.example"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - idna has errors of its own, which are ValueErrors
        suppression.normalised(text)


def test_the_key_is_the_digest_that_others_can_compute() -> None:
    assert suppression.key_of("ada@example.com") == hashlib.sha256(b"ada@example.com").hexdigest()


@given(st.emails())
def test_relay_and_tracker_come_to_the_same_key(address: str) -> None:
    try:
        recipient = addresses.parse(address)
    except (addresses.Malformed, addresses.TooLong):
        return
    assert suppression.normalised(recipient.address) == recipient.address.lower()

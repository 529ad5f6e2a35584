# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Decoding JSON: bad input of every kind is one error."""

from __future__ import annotations

import pytest

from shared import contract, decoding

read = decoding.decoder(contract.SendEmailRequest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"to":1}',
        b'{"html":"a"}{"html":"b"}',
        b"{'to':'a'}",
        b'{"to":"\xff"}',
        b'{"x":"\xff"}',
        b'{"\xff":1}',
        b'{"x":{"y":["\xed\xa0\x80"]}}',
        b'{"html":"\xff","html":"h"}',
        b'{"subject":"\\ud83d cut"}',
        b'{"x":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
def test_bad_input_is_malformed_also_in_unknown_fields(body: bytes) -> None:
    """Bad input is: not JSON, of a wrong type, not UTF-8, a lone surrogate, or nested too deep."""
    with pytest.raises(decoding.Malformed):
        read(body)


def test_a_request_in_utf_8_is_read_and_unknown_fields_are_ignored() -> None:
    request = read('{"to":"zoë@example.com","x":"日本","é":[1]}'.encode())
    assert request == contract.SendEmailRequest(to="zoë@example.com")

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


read_request = decoding.request_decoder(contract.SendEmailRequest, lambda given: given.to and given.subject)


def test_names_in_any_case_are_read_where_fields_are_missing() -> None:
    """As Go reads them, which callers of the Go service may rely on (golang/go#14750, danielgtaylor/huma#577)."""
    request = read_request(b'{"To":"a@b.org","SUBJECT":"s","From":"c@d.org","group_ID":"g","Unknown":{}}')
    assert (request.to, request.subject, request.from_, request.group_id) == ("a@b.org", "s", "c@d.org", "g")


@pytest.mark.parametrize("body", [b'{"TO":"x","to":"a@b.org"}', b'{"to":"a@b.org","TO":"x"}'])
def test_the_exact_name_counts_before_others(body: bytes) -> None:
    assert read_request(body).to == "a@b.org"


def test_names_of_a_whole_request_are_read_as_they_are() -> None:
    assert read_request(b'{"to":"a@b.org","subject":"s","Group_ID":"g"}').group_id is None


@pytest.mark.parametrize("body", [b"{}", b'{"x":1}'])
def test_a_request_without_known_names_is_empty(body: bytes) -> None:
    assert read_request(body) == contract.SendEmailRequest()


@pytest.mark.parametrize("body", [b'{"TO":5}', b'{"X":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"TO":"\xff"}'])
def test_bad_input_under_another_name_is_malformed(body: bytes) -> None:
    with pytest.raises(decoding.Malformed):
        read_request(body)

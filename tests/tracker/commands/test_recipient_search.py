# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The recipient of a record is compared as a mailbox: by the address that the mail went to, in any spelling."""

from __future__ import annotations

import json

import pytest

from shared import suppression_list
from shared.kv.scan import Stored
from tracker.commands.recipient_search import RecipientSearch

ADA = "ada@example.com"


@pytest.mark.parametrize(
    ("address", "to"),
    [
        (ADA, "ada@example.com"),
        (ADA, "Ada@EXAMPLE.com"),
        ("ADA@Example.COM", ADA),
        (ADA, "Ada <ada@example.com>"),
        (ADA, "<ada@example.com>"),
        (ADA, '"Lovelace, Ada" <ADA@example.com> '),
        (ADA, "Jürgen <ada@example.com>"),
        (ADA, '"ada"@example.com'),
        (ADA, '"a\\da"@example.com'),
        (ADA, "Ada (a <b@c.org>) <ada @ example.com>"),
        (ADA, "ada@example.com (<b@c.org>)"),
        (ADA, "\t ada@example.com "),
        ("Ada <ada@example.com>", ADA),
        ('"a b"@example.com', '"A b"@Example.com'),
        ("a&b@example.com", "a&b@example.com"),
        ("ada@[192.0.2.1]", "ada@[192.0.2.1]"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "Ada <ada@BÜCHER.example>"),
        ("ada@XN--BCHER-KVA.example", "ada@bücher。example"),
        (ADA, "ada@example.com, bob@example.com"),  # the relay accepts one address only
        (ADA, "bob@example.com; Ada <ADA@example.com>,"),
    ],
)
def test_the_same_mailbox_is_found(address: str, to: str) -> None:
    assert RecipientSearch(suppression_list.normalised(address)).matches(to)


@pytest.mark.parametrize(
    "to",
    [
        "bob@example.com",
        "bada@example.com",
        "ada@example.com.au",
        "ada@example.community",
        "ada@sub.example.com",
        "ada+news@example.com",
        "x.ada@example.com",
        "ada@exämple.com",
        '"ada@example.com" <bob@example.com>',
        "ada@example.com <bob@example.com>",
        "bob@example.com (ada@example.com)",
        "eve-ada@example.com, bob@example.com",
        "ada@example.com.au, bob@example.com",
        "erased",
        "",
    ],
)
def test_another_mailbox_is_not_found(to: str) -> None:
    assert not RecipientSearch(ADA).matches(to)


def test_values_that_are_no_records_are_left_out_and_unreadable_ones_with_the_address_are_named() -> None:
    search = RecipientSearch(ADA)
    page = [
        Stored("1", b'{"to":"Ada\\u003cada@example.com\\u003e","x":[1]}'),
        Stored("2", b'{"to":null}'),
        Stored("3", b"[]"),
        Stored("4", b'{"to":"ADA@example.com"'),
        Stored("5", b"{"),
        Stored("6", json.dumps({"to": "bob@example.com", "subject": ADA}).encode()),
        Stored("=erased.x", b'{"erased_at":"2026-01-02T03:04:05Z"}'),
    ]
    assert [stored.key for stored in search.select(page)] == ["1"]
    assert (search.found, search.unreadable) == (1, ["4"])


def test_an_erased_record_is_selected_again_only_if_it_holds_data() -> None:
    search = RecipientSearch(ADA)
    link = {"event_id": "c1", "link": "https://x.org", "clicked_at": "2026-01-02T03:04:05Z"}
    page = [
        Stored("1", b'{"to":"erased","subject":"erased"}'),
        Stored("2", json.dumps({"to": "erased", "subject": "erased", "click_list": [link]}).encode()),
        Stored("3", b'{"to":"ada@example.com"}'),
    ]
    assert [stored.key for stored in search.select_with_data(page)] == ["2", "3"]

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Redacting addresses in logs, and passwords in URLs."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import redaction

PROPERTY = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
MAX_REPLY_BYTES = 65_536  # of relay/smtp/dialogue.py: the longest text of a server

ATEXT = "abcXYZ019!#$%&'*+/=?^_`{|}~-."
local_parts = st.one_of(
    st.text(ATEXT, min_size=3, max_size=30),
    st.text("ab \"\\<>@,;'()é", min_size=3, max_size=20).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
)
domains = st.sampled_from(["example.com", "a.b-c.example", "localhost", "bücher.example"])


MAILBOXES = (
    ("alice@example.com", "a***@example.com"),
    ("a@example.com", "a***@example.com"),
    ("Alice Doe <alice@example.com>", "a***@example.com"),
    ('"Doe, Alice" <alice@example.com>', "a***@example.com"),
    ('"alice doe"@example.com', "a***@example.com"),
    ('"a@b"@example.com', "a***@example.com"),
    (" alice@example.com ", "a***@example.com"),
    ("alice@example.com (Alice, 5 High Street)", "a***@example.com"),
    ("alice@example.com> Alice", "a***@example.com"),
    ("alice@example.com, bob@example.org", "a***@example.org"),
    ("alice@example.com,Bob", "a***@example.com"),
    ("alice@example.com\r\nBcc: Bob", "a***@example.com"),
    ("jörg@bücher.example", "j***@bücher.example"),
    ("alice@[127.0.0.1]", "a***@[127.0.0.1]"),
    ("alice@", "a***@"),
    ("@example.com", "***@example.com"),
    ("alice", "***"),
    ("Alice Doe", "***"),
    ("", "***"),
)


def test_only_the_first_letter_and_the_domain_of_a_mailbox_are_shown() -> None:
    for mailbox, shown in MAILBOXES:
        assert redaction.address(mailbox) == shown


def test_a_domain_that_is_too_long_is_cut() -> None:
    assert redaction.address("alice@" + "x" * 500_000) == "a***@" + "x" * 255


@pytest.mark.parametrize(
    ("given_id", "shown"),
    [
        ("invite-batch-abc123", "invite-batch-abc123"),
        ("alice@example.com", "a***@example.com"),
        ("invite of alice@example.com", "invite of a***@example.com"),
        ("=alice=40example=2Ecom", "=***@example=2Ecom"),
    ],
)
def test_an_address_in_an_id_or_in_its_key_is_redacted(given_id: str, shown: str) -> None:
    assert redaction.identifier(given_id) == shown


@PROPERTY
@given(local_parts, domains)
def test_at_most_the_first_letter_of_any_local_part_is_shown(local_part: str, domain: str) -> None:
    shown = redaction.address(f"{local_part}@{domain}")
    assert shown.endswith(f"***@{domain}")
    assert len(shown) <= len(f"a***@{domain}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("550 5.1.1 <alice@example.com>: user unknown", "550 5.1.1 <a***@example.com>: user unknown"),
        ("554 alice@example.com, bob@example.org", "554 a***@example.com, b***@example.org"),
        ("RCPT TO:<alice@example.com>", "RCPT TO:<a***@example.com>"),
        ("mailto:alice@example.com;x", "mailto:a***@example.com;x"),
        ("(alice@example.com)", "(a***@example.com)"),
        ("[alice@example.com]", "[a***@example.com]"),
        ("mary.o'hara@example.com", "m***@example.com"),
        ("'alice@example.com' is unknown", "a***@example.com' is unknown"),
        ('550 "alice doe"@example.com', "550 a***@example.com"),
        ('to="alice doe"@example.com', "to=a***@example.com"),
        ('550 "a\\"b@c"@example.com', "550 a***@example.com"),
        ("<jörg@bücher.example>", "<j***@bücher.example>"),
        ("alice@example.com.", "a***@example.com."),
        ("alice@[192.0.2.1]", "a***@[192.0.2.1]"),
    ],
)
def test_every_address_in_a_text_is_redacted_and_the_rest_is_not_changed(text: str, shown: str) -> None:
    assert redaction.text(text) == shown


def test_a_text_without_an_address_is_not_changed() -> None:
    for text in ("", "554 Message rejected: Email address is not verified.", "see https://x.org/x?y=1", "@", "a @ b"):
        assert redaction.text(text) == text


@PROPERTY
@given(
    local_parts, domains, st.sampled_from(["<{}>", "550 5.1.1 <{}>: no", "{}", "{}, {}", "x ({}) y", "[{}", "\t{}\r\n"])
)
def test_an_address_in_a_text_is_redacted_like_a_single_one(local_part: str, domain: str, reply: str) -> None:
    address = f"{local_part}@{domain}"
    assert redaction.text(reply.format(address, address)) == reply.format(*[redaction.address(address)] * 2)


@pytest.mark.parametrize("unit", ["a", '"', '\\"', '"\\', '"\\"', ' "a', "'", "@", "a@", "a'", '"@', "\\"])
def test_the_longest_reply_is_redacted_in_less_than_a_second(unit: str) -> None:
    """If the time grew with the square of the length, the event loop would stop for half a minute."""
    reply = unit * (MAX_REPLY_BYTES // len(unit))
    start = time.process_time()
    redaction.text(reply)
    assert time.process_time() - start < 1


def test_user_password_and_token_of_a_url_are_redacted() -> None:
    given = "nats://relay:p@ss@n1:4222, tls://token@n2,nats://n3:4222"
    assert redaction.urls(given) == "nats://***@n1:4222, tls://***@n2,nats://n3:4222"

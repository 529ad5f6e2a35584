# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How an address looks in a log."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import redaction

PROPERTY = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
MAX_REPLY_BYTES = 65_536  # of relay/smtp/dialogue.py: the longest text that a server can make us redact

ATEXT = "abcXYZ019!#$%&'*+/=?^_`{|}~-."
local_parts = st.one_of(
    st.text(ATEXT, min_size=3, max_size=30),
    st.text("ab \"\\<>@,;'()é", min_size=3, max_size=20).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
)
domains = st.sampled_from(["example.com", "a.b-c.example", "localhost", "bücher.example"])


@pytest.mark.parametrize(
    ("mailbox", "shown"),
    [
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
    ],
)
def test_of_a_mailbox_the_first_letter_and_the_domain_are_kept(mailbox: str, shown: str) -> None:
    assert redaction.address(mailbox) == shown


def test_what_is_too_long_for_a_domain_makes_no_long_line() -> None:
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
def test_an_address_in_an_id_is_redacted_also_in_the_key_of_the_id(given_id: str, shown: str) -> None:
    assert redaction.identifier(given_id) == shown


@PROPERTY
@given(local_parts, domains)
def test_of_any_local_part_at_most_the_first_letter_is_shown(local_part: str, domain: str) -> None:
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
def test_every_address_in_a_text_is_redacted_and_the_rest_stays(text: str, shown: str) -> None:
    assert redaction.text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "250 OK",
        "554 Message rejected: Email address is not verified.",
        "see https://example.com/x?y=1",
        "@",
        "a @ b",
        "454 4.7.0 Throttling failure: Maximum sending rate exceeded.",
    ],
)
def test_a_text_without_an_address_stays_as_it_is(text: str) -> None:
    assert redaction.text(text) == text


@PROPERTY
@given(
    local_parts, domains, st.sampled_from(["<{}>", "550 5.1.1 <{}>: no", "{}", "{}, {}", "x ({}) y", "[{}", "\t{}\r\n"])
)
def test_a_server_reply_shows_an_address_as_redacted_as_it_is_alone(local_part: str, domain: str, reply: str) -> None:
    address = f"{local_part}@{domain}"
    assert redaction.text(reply.format(address, address)) == reply.format(*[redaction.address(address)] * 2)


@pytest.mark.parametrize("unit", ["a", '"', '\\"', '"\\', '"\\"', ' "a', "'", "@", "a@", "a'", '"@', "\\"])
def test_the_longest_reply_is_redacted_at_once(unit: str) -> None:
    """Whatever a server says, the event loop goes on: time by the square would be half a minute here."""
    reply = unit * (MAX_REPLY_BYTES // len(unit))
    start = time.process_time()
    redaction.text(reply)
    assert time.process_time() - start < 1


def test_a_url_is_shown_without_user_password_and_token() -> None:
    given = "nats://relay:p@ss@n1:4222, tls://token@n2,nats://n3:4222"
    assert redaction.urls(given) == "nats://***@n1:4222, tls://***@n2,nats://n3:4222"

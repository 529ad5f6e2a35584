# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Redacting addresses in logs, and passwords in URLs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import redaction

PROPERTY = settings(max_examples=100)
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
        ("'alice@example.com' is unknown", "'a***@example.com' is unknown"),
        ("SMTP_FROM: 'a b@example..com' is not one mailbox", "SMTP_FROM: 'a b***@example..com' is not one mailbox"),
        ("'alice@example.com is unknown", "a***@example.com is unknown"),
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


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("nats://relay:p/w@n1:4222,nats://n2/x@y", "nats://***@n1:4222,nats://***@y"),
        ("nats://relay:p w@n1:4222, tls://n2", "nats://***@n1:4222, tls://n2"),
        ("nats://n1, nats://relay:p:w@n2", "nats://n1, nats://***@n2"),
    ],
)
def test_a_password_that_is_not_percent_encoded_is_redacted(value: str, shown: str) -> None:
    assert redaction.urls(value) == shown


ASCII = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"\\&,;<>@")
tokens = st.text("abcXYZ019+/=", min_size=40, max_size=400).filter(
    lambda text: any(map(str.islower, text)) and any(map(str.isupper, text)) and any(map(str.isdigit, text))
)
any_values = st.text(ASCII, min_size=8, max_size=60).filter(lambda text: not text.isalpha())
QUOTED = (
    "receive_message: ValueError(\"Invalid header value b'{}\\\\n'\")",
    "header value: 'x{}'",
    "metadata was invalid: [('authorization', 'Bearer {}'), ('x', 'y')]",
    "Header format invalid! Header values in environment variables must be URL encoded: {}",
    "Authorization: Bearer {} and more",
    "'Authorization': 'AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1, Signature=x'",
    "the Canonical String\n'GET\n/\nhost:x\nx-amz-security-token:{}\n'",
    "{{'X-Amz-Security-Token': '{}', 'host': 'x'}}",
    '{{"SessionToken" : "{}"}}',
    "aws_session_token = {}",
    "aws_secret_access_key={}",
    "https://sqs.example/?Action=x&X-Amz-Signature={}&X-Amz-Credential={}",
    "nats://relay:{}@n1:4222 refused",
    "password='{}'",
    "the passphrase: {}",
    '{{"pass":"{}"}}',
    "pwd={}",
)


@PROPERTY
@given(any_values, st.sampled_from(QUOTED))
def test_a_secret_beside_its_name_is_redacted(secret: str, quoting: str) -> None:
    assert secret not in redaction.secrets(quoting.format(secret, secret))


@PROPERTY
@given(tokens, st.sampled_from(["{}", "invalid {}\\n", "('{}',)", "b'{}'", "<X>{}</X>", "no {}. And"]))
def test_a_session_token_is_redacted_without_its_name(token: str, quoting: str) -> None:
    assert token not in redaction.secrets(quoting.format(token))


@pytest.mark.parametrize(
    ("quoting", "shown"),
    [
        ("Invalid header value b'AKIAIOSFODNN7EXAMPLE\\n'", "Invalid header value ***"),
        ("key AKIAIOSFODNN7EXAMPLE of ASIAIOSFODNN7EXAMPLE", "key AKIA*** of ASIA***"),
        ("user jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln-_", "user jwt ***"),
        ("seed SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4", "seed ***"),
        ("Bearer s3cret-token", "Bearer ***"),
        ("proxy http://ada:pw@proxy.example:3128", "proxy http://***@proxy.example:3128"),
    ],
)
def test_secrets_of_known_kinds_are_redacted(quoting: str, shown: str) -> None:
    assert redaction.secrets(quoting) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SMTP_PASSWORD: its value (not shown) is not UTF-8",
        "AWS_SESSION_TOKEN: contains a line end",
        "nats: 'Authorization Violation'",
        "535 5.7.8 Authentication credentials invalid",
        "The security token included in the request is invalid.",
        "not authorized to perform: sqs:receivemessage on arn:aws:sqs:us-east-1:123456789012:engagement-events",
        'Could not connect to the endpoint URL: "https://sqs.us-east-1.amazonaws.com/123456789012/engagement-events"',
        "the NATS user may not publish to $KV.email-recipients.7f3b2c1a-1234-4cde-9abc-0123456789ab",
        "no key 0c1d5ca5d2bd2f4bcfd28a0e2f6f7e3f5b9a4f6f7e3f5b9a4f6f7e3f5b9a4f6f",
        "Invalid token: expected ]",
        "Unable to parse config file: /root/.aws/credentials",
    ],
)
def test_a_text_without_secrets_is_not_changed(text: str) -> None:
    assert redaction.secrets(text) == text


@PROPERTY
@given(any_values, local_parts, domains, st.sampled_from(["550 <{1}@{2}> unknown", "smtp://{0}@{2}", "token={0}"]))
def test_a_redacted_text_is_not_changed_again(value: str, local_part: str, domain: str, quoting: str) -> None:
    once = redaction.secrets(quoting.format(value, local_part, domain))
    assert redaction.secrets(once) == once


def test_an_error_is_shown_by_its_text_or_else_by_its_repr() -> None:
    assert redaction.error(ValueError("no ada@example.com")) == "no a***@example.com"
    assert redaction.error(TimeoutError()) == "TimeoutError()"


@pytest.mark.parametrize(
    "unit",
    [
        *("a", "header ", "header'", "token", "token ", "token=", "token:'", "secret access ", "password\t", "Bearer "),
        *("AKIA", "eyJ", "eyJaaaaaaaaa.", "SA", "://", "://a", "a@", "authorization ", "A1a/", "=", "'", '"', "\\"),
    ],
)
def test_secrets_in_a_long_text_are_redacted_in_less_than_a_second(unit: str) -> None:
    text = unit * (MAX_REPLY_BYTES // len(unit))
    start = time.process_time()
    redaction.secrets(text)
    assert time.process_time() - start < 1

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""SMTP_HOST and SMTP_HELO_NAME: what is understood, and what ends the start with one line."""

from __future__ import annotations

import pytest

from relay import host_names
from relay import settings as relay_settings
from relay.settings import RelaySettings
from shared.service import settings
from shared.service.settings import SettingsError


def loaded(**environ: str) -> RelaySettings:
    """Settings as the relay reads and checks them."""
    config = settings.load(environ, RelaySettings)
    relay_settings.policy(config)
    return config


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("localhost", "localhost"),
        (" localhost\r\n", "localhost"),
        ("localhost.", "localhost"),
        ("email-smtp.us-west-2.amazonaws.com.", "email-smtp.us-west-2.amazonaws.com"),
        ("Mail.Example", "Mail.Example"),
        ("smtp_server", "smtp_server"),
        ("mail-1.example", "mail-1.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("[127.0.0.1]", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[2001:db8::25]", "2001:db8::25"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("mail.bücher.example", "mail.xn--bcher-kva.example"),
        ("ＭＡＩＬ.example", "mail.example"),  # noqa: RUF001 - full-width letters
        ("", "localhost"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_a_host_whose_meaning_is_clear_is_understood(given: str, host: str) -> None:
    assert loaded(SMTP_HOST=given).smtp_host == host


@pytest.mark.parametrize(
    "given",
    [
        "localhost:587",
        "127.0.0.1:25",
        "[::1]:587",
        "[localhost]",
        "[::1",
        "::1]",
        "smtp://localhost",
        "smtps://localhost:465/",
        "//localhost",
        "localhost/",
        "localhost/path",
        "user@localhost",
        "mail.example, mail2.example",
        "mail.example,mail2.example",
        "mail.example;mail2.example",
        "mail .example",
        "mail\t.example",
        "mail\n.example",
        "mail..example",
        ".example",
        ".",
        "..",
        "localhost..",
        "-mail.example",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "587",
        "256.1.1.1",
        "1.2.3",
        "127.0.0.1.",
        "0x7f000001",
        "mail.example:",
        "*.example",
        "$SMTP_HOST",
        '"localhost"',
        "mail.😀\u200b.example\u0000",
        "mail%2eexample",
        "::1::2",
    ],
)
def test_a_host_that_is_not_one_name_or_address_ends_the_start(given: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        loaded(SMTP_HOST=given)
    text = str(refusal.value)
    assert text.startswith("SMTP_HOST: ")
    assert text.endswith(" is not a host name or address, without port; set SMTP_PORT")
    assert "\n" not in text
    assert "@" in given or repr(given) in text


@pytest.mark.parametrize("given", ["smtp://user:s3cret@localhost", "user:s3/cret@localhost:587", "us@er:s3cret@host"])
def test_a_password_in_the_host_is_not_shown(given: str) -> None:
    with pytest.raises(SettingsError, match=r"SMTP_HOST: '\*\*\*@.*host") as refusal:
        loaded(SMTP_HOST=given)
    assert "cret" not in str(refusal.value)
    _, variables = settings.describe({"SMTP_HOST": given}, RelaySettings)
    assert "cret" not in str(variables)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "587/tcp", "tcp://10.0.0.1:25"])
def test_a_port_out_of_range_ends_the_start(port: str) -> None:
    with pytest.raises(SettingsError, match=r"SMTP_PORT: .* is not a whole number from 1 up to 65535"):
        loaded(SMTP_PORT=port)


def test_a_bracketed_loopback_address_may_have_a_password_without_tls() -> None:
    for host in ("[::1]", "localhost.", "LOCALHOST"):
        loaded(SMTP_HOST=host, SMTP_TLS="off", SMTP_USERNAME="u", SMTP_PASSWORD="p")


# EHLO


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("", ""),
        ("relay.example.org", "relay.example.org"),
        ("relay.example.org.", "relay.example.org"),
        ("relay", "relay"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "[192.0.2.1]"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("[2001:DB8::1]", "[IPv6:2001:db8::1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_the_name_for_ehlo_is_a_host_name_or_an_address_literal(given: str, name: str) -> None:
    assert loaded(SMTP_HELO_NAME=given).smtp_helo_name == name


@pytest.mark.parametrize(
    "given", ["my_host", "a b", "a\tb", "relay.example:25", "[relay]", "http://relay", "1.2.3", "..", "relay, other"]
)
def test_a_malformed_name_for_ehlo_ends_the_start(given: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        loaded(SMTP_HELO_NAME=given)
    assert str(refusal.value) == f"SMTP_HELO_NAME: {given!r} is not a host name or address"


@pytest.mark.parametrize(
    ("host_name", "address", "name"),
    [
        ("relay.example.org", "192.0.2.1", "relay.example.org"),
        ("lfx-v2-email-relay-6d5f7c-x2x9k", "10.1.2.3", "[10.1.2.3]"),
        ("pod", "2001:db8::1", "[IPv6:2001:db8::1]"),
        ("pod", "::1", "[IPv6:::1]"),
        ("pod", "::ffff:10.1.2.3", "[10.1.2.3]"),
        ("pod", "fe80::1%eth0", "[IPv6:fe80::1]"),
        ("my_host.local", "127.0.0.1", "[127.0.0.1]"),
        ("a..b", "127.0.0.1", "[127.0.0.1]"),
        ("10.1.2.3", "127.0.0.1", "[127.0.0.1]"),
        ("", "127.0.0.1", "[127.0.0.1]"),
    ],
)
def test_without_a_full_name_ehlo_has_the_address_literal(host_name: str, address: str, name: str) -> None:
    assert host_names.own_helo(host_name, address) == name

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How SMTP connections are opened: TLS, AUTH, and servers that fail meanwhile."""

from __future__ import annotations

import asyncio
import base64
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from relay import settings as relay_settings
from relay.errors import AccountRefused, Deferred, DeliveryError
from relay.settings import RelaySettings, is_loopback
from relay.smtp import connection as smtp_connection
from relay.smtp.connection import Connector
from shared.service.settings import SettingsError
from tests.relay.inputs import ENVELOPE, MAIL, connector
from tests.relay.smtp.sessions import ACCOUNT, ON_UVLOOP, PASSWORD, USER, patience, verbs
from tests.stack import scripted_smtp, smtp_server
from tests.stack.smtp_scripts import (
    Close,
    Garbage,
    Reply,
    Reset,
    Silence,
    always,
    first,
)
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage


# TLS and AUTH


async def test_starttls_is_followed_by_ehlo_then_auth_then_mail(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), username=USER, password=PASSWORD)
    connection = await connector(smtp, **ACCOUNT).connect()
    await connection.send(ENVELOPE, MAIL)
    assert verbs(smtp) == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"]
    [received] = smtp.mails
    assert received.tls
    assert received.authenticated_as == USER


@pytest.mark.parametrize("smtp_tls", ["auto", "off"])
async def test_the_expiry_of_the_servers_certificate_is_known_after_a_connection_with_tls(
    trusted: Certificates, smtp: ScriptedSmtp, smtp_tls: str
) -> None:
    left = timedelta(days=3)
    smtp.options = scripted_smtp.Options(tls=trusted.context_valid_for(left))
    one = connector(smtp, smtp_tls=smtp_tls)
    assert one.certificate_expiry is None
    (await one.connect()).abort()
    expected = pytest.approx((datetime.now(UTC) + left).timestamp(), abs=60)
    assert one.certificate_expiry == (expected if smtp_tls == "auto" else None)


async def test_a_real_server_accepts_the_mail_over_starttls_and_auth(trusted: Certificates) -> None:
    async with smtp_server.running(
        tls=trusted.server_context(), username=USER, password=PASSWORD, require_starttls=True
    ) as server:
        settings = RelaySettings(smtp_host="localhost", smtp_port=server.port, smtp_timeout_seconds=5, **ACCOUNT)
        connection = await Connector(settings).connect()
        for content in (MAIL, b".\r\n" + MAIL):
            await connection.send(ENVELOPE, content)
        assert [received.content for received in server.mails] == [MAIL, b".\r\n" + MAIL]
        assert all(received.tls and received.authenticated_as == USER for received in server.mails)
        await connection.quit()
        await until(lambda: not server.open_connections)


async def test_implicit_tls_begins_with_the_first_byte(
    trusted: Certificates, smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = scripted_smtp.Options(tls=trusted.server_context(), implicit_tls=True, username=USER, password=PASSWORD)
    async with scripted_smtp.running(options=options) as server:
        monkeypatch.setattr(smtp_connection, "IMPLICIT_TLS_PORTS", {server.port})
        connection = await connector(server, **ACCOUNT).connect()
        await connection.send(ENVELOPE, MAIL)
        assert verbs(server) == ["EHLO", "AUTH", "MAIL", "RCPT", "DATA"]
        assert server.mails[0].tls
    assert smtp.sessions == 0


def test_the_ports_of_the_tls_wrapper_are_those_of_ses() -> None:
    assert {465, 2465} == relay_settings.IMPLICIT_TLS_PORTS


@pytest.mark.parametrize("context", ["wrong_host_context", "unknown_ca_context"])
@pytest.mark.parametrize("implicit", [False, True])
async def test_a_server_with_an_invalid_certificate_gets_no_password(
    trusted: Certificates, monkeypatch: pytest.MonkeyPatch, context: str, *, implicit: bool
) -> None:
    tls = getattr(trusted, context)()
    options = scripted_smtp.Options(tls=tls, implicit_tls=implicit, username=USER, password=PASSWORD)
    async with scripted_smtp.running(options=options) as server:
        if implicit:
            monkeypatch.setattr(smtp_connection, "IMPLICIT_TLS_PORTS", {server.port})
        with pytest.raises(Deferred, match=r"(?i)certificate"):
            await connector(server, **ACCOUNT).connect()
        await server.wait_for_open_sessions(0)
        assert "AUTH" not in str(server.commands)


async def test_with_tls_required_a_server_without_starttls_gets_no_mail(smtp: ScriptedSmtp) -> None:
    with pytest.raises(Deferred, match="encrypted"):
        await connector(smtp, smtp_tls="required").connect()
    await smtp.wait_for_open_sessions(0)
    assert verbs(smtp) == ["EHLO"]


async def test_credentials_are_not_sent_unencrypted_to_another_host(other_host: str) -> None:
    server = scripted_smtp.ScriptedSmtp(lambda _: None, scripted_smtp.Options(username=USER, password=PASSWORD))
    server.host = other_host
    await server.start()
    try:
        with pytest.raises(Deferred, match="encrypted"):
            await connector(server, smtp_host=other_host, **ACCOUNT).connect()
        await server.wait_for_open_sessions(0)
        assert verbs(server) == ["EHLO"]
    finally:
        await server.stop()


async def test_without_credentials_another_host_needs_no_tls(other_host: str) -> None:
    server = scripted_smtp.ScriptedSmtp(lambda _: None, scripted_smtp.Options())
    server.host = other_host
    await server.start()
    try:
        connection = await connector(server, smtp_host=other_host).connect()
        await connection.send(ENVELOPE, MAIL)
        assert len(server.mails) == 1
    finally:
        await server.stop()


@pytest.mark.parametrize("tls", ["auto", "off"])
async def test_credentials_may_be_sent_unencrypted_on_this_machine(smtp: ScriptedSmtp, tls: str) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    connection = await connector(smtp, smtp_tls=tls, **ACCOUNT).connect()
    await connection.send(ENVELOPE, MAIL)
    assert smtp.mails[0].authenticated_as == USER


async def test_with_tls_off_the_mail_is_sent_unencrypted(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context())
    connection = await connector(smtp, smtp_tls="off").connect()
    await connection.send(ENVELOPE, MAIL)
    assert not smtp.mails[0].tls


@pytest.mark.parametrize("host", ["email-smtp.us-west-2.amazonaws.com", "10.0.0.1"])
def test_settings_that_would_send_the_password_unencrypted_are_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="SMTP_TLS") as refusal:
        relay_settings.policy(RelaySettings(smtp_host=host, smtp_tls="off", **ACCOUNT))
    assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - nothing binds it
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_count_as_this_machine(host: str, *, is_here: bool) -> None:
    assert is_loopback(host) is is_here


async def test_replies_injected_before_tls_are_ignored(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), username=USER, password=PASSWORD)
    smtp.script = always("starttls", Reply("220 go ahead\n250-injected\n250 AUTH CRAM-MD5"))
    try:
        connection = await connector(smtp, **ACCOUNT).connect()
        await connection.send(ENVELOPE, MAIL)
    except Deferred:
        assert "AUTH" not in str(smtp.commands)
    else:
        assert smtp.mails[0].authenticated_as == USER


@pytest.mark.parametrize(
    "action",
    [
        Reply("454 4.7.0 TLS not available"),
        Reply("220 go\r\n\x16garbage", close=True),
        Garbage(b"220 go\r\n\x00\xff" * 99),
        Silence(),
        Close(),
        Reset(),
    ],
)
async def test_after_a_failed_starttls_the_connection_is_closed_and_the_next_one_works(
    trusted: Certificates, smtp: ScriptedSmtp, action: Action
) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), username=USER, password=PASSWORD)
    smtp.script = first(2, "starttls", action)
    opener = connector(smtp, smtp_timeout_seconds=patience(action), **ACCOUNT)
    for _ in range(2):
        with pytest.raises(Deferred):
            await opener.connect()
        await smtp.wait_for_open_sessions(0)
    connection = await opener.connect()
    await connection.send(ENVELOPE, MAIL)
    assert smtp.mails[0].tls


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("535 5.7.8 Authentication Credentials Invalid", AccountRefused),
        ("530 5.7.0 Must issue a STARTTLS command first", AccountRefused),
        ("454 4.7.0 Temporary authentication failure", Deferred),
        ("421 4.3.2 Too many concurrent connections", Deferred),
        ("451 4.3.0 Try again", Deferred),
    ],
)
async def test_a_permanent_refusal_of_auth_is_account_refused_and_a_temporary_one_deferred(
    smtp: ScriptedSmtp, reply: str, kind: type[DeliveryError]
) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = always("auth", Reply(reply))
    with pytest.raises(DeliveryError) as failure:
        await connector(smtp, **ACCOUNT).connect()
    assert type(failure.value) is kind
    assert failure.value.code == int(reply[:3])
    assert PASSWORD not in str(failure.value)
    await smtp.wait_for_open_sessions(0)


# Servers that do not understand or accept the first try


@pytest.mark.parametrize("refusal", ["500 5.5.1 Command unrecognized", "502 not implemented", "503 Bad sequence"])
async def test_a_server_that_does_not_know_ehlo_gets_helo(smtp: ScriptedSmtp, refusal: str) -> None:
    """RFC 5321, 3.2 and dahlia/upyo#41, pear/Net_SMTP#5."""
    smtp.script = lambda moment: Reply(refusal) if moment.line.startswith("EHLO") else None
    connection = await connector(smtp).connect()
    await connection.send(ENVELOPE, MAIL)
    assert verbs(smtp) == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("refusal", ["421 4.3.2 Closing", "550 5.7.1 Your name is not accepted"])
async def test_a_server_that_refuses_the_client_gets_no_helo(smtp: ScriptedSmtp, refusal: str) -> None:
    """The reason must not be hidden by the reply to HELO: PHPMailer/PHPMailer#2189."""
    smtp.script = always("ehlo", Reply(refusal))
    with pytest.raises(Deferred, match=refusal[4:]):
        await connector(smtp).connect()
    assert verbs(smtp) == ["EHLO"]


@pytest.mark.parametrize("more", [ACCOUNT, {"smtp_tls": "required"}])
async def test_helo_does_not_replace_tls_or_auth(smtp: ScriptedSmtp, more: dict[str, Any]) -> None:
    smtp.script = always("ehlo", Reply("502 not implemented"))
    with pytest.raises(Deferred, match="not implemented"):
        await connector(smtp, **more).connect()
    assert verbs(smtp) == ["EHLO"]


@pytest.mark.parametrize(
    "refusal",
    [
        "504 5.7.4 Unrecognized authentication type",
        "502 Invalid input",
        "535 Login fail",
        "535 5.7.8 Error: authentication failed: Invalid authentication mechanism",
        "553 5.3.0 Auth failure",
        "534 5.7.9 Authentication mechanism is too weak",
    ],
)
async def test_a_server_that_refuses_a_method_that_it_offers_gets_the_next_one(
    smtp: ScriptedSmtp, refusal: str
) -> None:
    """yc-software/qm#808, basecamp/once#12, cakephp/cakephp#14639, andris9/simplesmtp#7."""
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = lambda moment: Reply(refusal) if moment.line.startswith("AUTH PLAIN") else None
    one = connector(smtp, **ACCOUNT)
    for _ in range(2):
        connection = await one.connect()
        await connection.send(ENVELOPE, MAIL)
    assert [received.authenticated_as for received in smtp.mails] == [USER, USER]
    methods = [[line.split()[1] for line in lines if line.startswith("AUTH")] for lines in smtp.commands]
    assert methods == [["PLAIN", "LOGIN"], ["LOGIN"]]


@pytest.mark.parametrize(
    "refusal",
    [
        "535 Authentication Credentials Invalid",
        "535-5.7.8 Username and Password not accepted.\n535 5.7.8 Learn more",
        "530 5.7.0 Must issue a STARTTLS command first",
        "454 4.7.0 Temporary authentication failure",
    ],
)
async def test_a_login_that_another_method_would_not_help_is_tried_once(smtp: ScriptedSmtp, refusal: str) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = always("auth", Reply(refusal))
    with pytest.raises(DeliveryError):
        await connector(smtp, **ACCOUNT).connect()
    assert verbs(smtp) == ["EHLO", "AUTH"]


async def test_a_server_that_asks_for_more_than_a_method_has_gets_the_next_one(smtp: ScriptedSmtp) -> None:
    replies = {"AUTH PLAIN": "334 ", "*": "501 5.7.0 Cancelled"}
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = lambda moment: next((Reply(replies[it]) for it in replies if moment.line.startswith(it)), None)
    connection = await connector(smtp, **ACCOUNT).connect()
    await connection.send(ENVELOPE, MAIL)
    assert [received.authenticated_as for received in smtp.mails] == [USER]
    assert verbs(smtp)[:4] == ["EHLO", "AUTH", "*", "AUTH"]


@pytest.mark.parametrize(
    ("replies", "shown"),
    [
        ({"AUTH": "334 ", "*": "501 5.7.0 Cancelled"}, "asks for more than PLAIN has: 334; then 5.7.0 Cancelled"),
        ({"AUTH": "334 VXNlcg==", "*": "500 what"}, "asks for more than PLAIN has: 334 VXNlcg==; then what"),
        ({"AUTH": "250 2.0.0 Ok"}, "AUTH: 2.0.0 Ok"),
    ],
)
async def test_a_login_that_is_neither_accepted_nor_refused_is_account_refused(
    smtp: ScriptedSmtp, replies: dict[str, str], shown: str
) -> None:
    smtp.options = scripted_smtp.Options(advertise=("AUTH PLAIN",))
    smtp.script = lambda moment: next((Reply(replies[it]) for it in replies if moment.line.startswith(it)), None)
    with pytest.raises(AccountRefused) as failure:
        await connector(smtp, **ACCOUNT).connect()
    assert shown in failure.value.text


async def test_a_server_without_a_supported_auth_method_is_account_refused(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(advertise=("AUTH GSSAPI XOAUTH2",))
    with pytest.raises(AccountRefused, match="AUTH method"):
        await connector(smtp, **ACCOUNT).connect()


async def test_auth_plain_is_preferred_and_has_the_exact_password(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    await connector(smtp, **ACCOUNT).connect()
    word = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
    assert smtp.commands[0][1] == f"AUTH PLAIN {word}"


# Opening


@ON_UVLOOP
@pytest.mark.parametrize("stage", ["greeting", "ehlo", "auth"])
@pytest.mark.parametrize(
    "action",
    [
        Close(),
        Reset(),
        Silence(),
        Garbage(b"\x00\xff\r\n"),
        Garbage(b"2" * 100_000),
        Reply("421 4.3.2 not now", close=True),
        Reply("554 5.3.2 never", close=True),
        Reply("999 what", close=True),
    ],
    ids=lambda action: f"{type(action).__name__}-{getattr(action, 'text', '')[:3]}",
)
async def test_a_failed_opening_is_deferred_or_account_refused_and_closes_the_connection(
    smtp: ScriptedSmtp, stage: Stage, action: Action
) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = first(1, stage, action)
    opener = connector(smtp, smtp_timeout_seconds=patience(action), **ACCOUNT)
    with pytest.raises((Deferred, AccountRefused)):
        await opener.connect()
    await smtp.wait_for_open_sessions(0)
    connection = await opener.connect()
    await connection.send(ENVELOPE, MAIL)
    assert len(smtp.mails) == 1


@pytest.mark.parametrize("stage", ["ehlo", "auth"])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_that_closes_right_after_its_reply_is_deferred(
    trusted: Certificates, smtp: ScriptedSmtp, stage: Stage, *, tls: bool
) -> None:
    account = ACCOUNT if stage == "auth" else {}
    smtp.options = scripted_smtp.Options(
        tls=trusted.server_context() if tls else None, username=account.get("smtp_username"), password=PASSWORD
    )
    reply = Reply("235 2.7.0 welcome" if stage == "auth" else "250 localhost", close=True)
    smtp.script = always(stage, reply)
    for _ in range(5):
        with pytest.raises(Deferred):
            connection = await connector(smtp, **account).connect()
            await connection.send(ENVELOPE, MAIL)


async def test_an_unreachable_server_is_deferred(smtp: ScriptedSmtp) -> None:
    await smtp.stop()
    with pytest.raises(Deferred):
        await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connector(smtp, smtp_host="no-such-host.invalid").connect()


@ON_UVLOOP
async def test_an_opening_has_a_time_limit_as_a_whole(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD, reply_delay=0.2)
    with pytest.raises(Deferred, match="in time"):
        await connector(smtp, smtp_timeout_seconds=0.5, **ACCOUNT).connect()
    await smtp.wait_for_open_sessions(0)


async def test_a_cancelled_opening_closes_the_connection(smtp: ScriptedSmtp) -> None:
    smtp.script = always("ehlo", Silence())
    task = asyncio.create_task(connector(smtp).connect())
    await until(lambda: smtp.sessions == 1 and verbs(smtp) == ["EHLO"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await smtp.wait_for_open_sessions(0)


# EHLO


@pytest.mark.parametrize(
    ("names", "sent"),
    [
        (("relay-6d5f7c", ""), "[127.0.0.1]"),
        (("relay.example.org", ""), "relay.example.org"),
        (("relay-6d5f7c", "mail.example.org"), "mail.example.org"),
        (("relay.example.org", "192.0.2.1"), "[192.0.2.1]"),
    ],
)
async def test_ehlo_has_the_name_that_is_set_or_the_full_name_or_the_address(
    trusted: Certificates, smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], sent: str
) -> None:
    machine, setting = names
    monkeypatch.setattr(socket, "gethostname", lambda: machine)
    smtp.options = scripted_smtp.Options(tls=trusted.server_context())
    await connector(smtp, smtp_helo_name=setting).connect()
    assert smtp.commands[0] == [f"EHLO {sent}", "STARTTLS", f"EHLO {sent}"]


async def test_ehlo_over_ipv6_has_an_ipv6_literal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pod")
    server = scripted_smtp.ScriptedSmtp(lambda _: None, scripted_smtp.Options())
    server.host = "::1"
    try:
        await server.start()
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        await connector(server, smtp_host="[::1]").connect()
        assert server.commands[0] == ["EHLO [IPv6:::1]"]
    finally:
        await server.stop()

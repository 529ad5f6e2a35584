# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One SMTP connection against servers that do right, and servers that do anything else."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any

import aiosmtplib
import pytest

from relay import settings as relay_settings
from relay.errors import Barred, ConnectionStale, Deferred, DeliveryError, Rejected, Uncertain
from relay.settings import RelaySettings, is_loopback
from relay.smtp import connection as smtp_connection
from relay.smtp.connection import Connector
from shared.service.settings import SettingsError
from tests.relay.inputs import ENVELOPE, MAIL, connector, mail, numbers
from tests.stack import scripted_smtp, smtp_server
from tests.stack.smtp_scripts import (
    STORE_THEN_CLOSE,
    Close,
    Delay,
    Garbage,
    Moment,
    Reply,
    Reset,
    Silence,
    Store,
    after,
    always,
    either,
    first,
    per_session,
)
from tests.stack.waiting import until

if TYPE_CHECKING:
    from relay.smtp.connection import SmtpConnection
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage

USER, PASSWORD = "AKIAUSER", "pass word+/="
ACCOUNT: dict[str, Any] = {"smtp_username": USER, "smtp_password": PASSWORD}
PATIENCE = 0.25  # seconds a transaction may take where the server is going to stall
LENIENCE = 5.0  # seconds more that a busy machine may need; far below what would have been waited for otherwise
SILENT = (Silence, Garbage)
ON_UVLOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what waits for a limit, and depends on no loop

TRANSACTION: tuple[Stage, ...] = ("mail", "rcpt", "data", "dot")
BEFORE_THE_DOT: tuple[Stage, ...] = ("mail", "rcpt", "data")
LOSSES: tuple[Action, ...] = (
    Close(),
    Reset(),
    Silence(),
    Garbage(b"\x00\xff\r\n"),
    Garbage(b"25"),
    Garbage(b"250-half a reply\r\n"),
    Garbage(b"199 nothing of RFC 5321\r\n"),
    Garbage(b"777 nor this\r\n"),
)


def patience(action: Action) -> float:
    """Seconds to allow where this is going to happen: few if it may end in silence."""
    return PATIENCE if isinstance(action.then if isinstance(action, Store) else action, SILENT) else 5.0


async def warm(smtp: ScriptedSmtp, **changes: Any) -> SmtpConnection:
    """A connection that has sent a mail and was kept; the server's script begins after it."""
    script, smtp.script = smtp.script, lambda _: None
    connection = await connector(smtp, **changes).connect()
    await connection.send(ENVELOPE, mail(0))
    smtp.script = script
    return connection


def verbs(smtp: ScriptedSmtp, session: int = 1) -> list[str]:
    """The commands of a session without their arguments."""
    return [line.split()[0] for line in smtp.commands[session - 1]]


# What arrives


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: x\r\n\r\n.\r\n..\r\n.a\r\nb.\r\n \r\n\r\n.\r\n",
        b".Subject: x\r\n\r\n",
        b"\r\n",
        b"Subject: x\r\n\r\n" + b".\r\n" * 10_000,
        b"Subject: x\r\n\r\n" + b"x" * 998 + b"\r\n" + b"0123456789abcdef" * 60_000 + b"\r\n",
        b"Subject: x\r\n\r\nMAIL FROM:<a@example.com>\r\nQUIT\r\n",
    ],
    ids=["dots", "dot-first", "empty", "dots-alone", "long", "commands"],
)
async def test_content_arrives_byte_for_byte(smtp: ScriptedSmtp, content: bytes) -> None:
    connection = await connector(smtp).connect()
    await connection.send(ENVELOPE, content)
    [received] = smtp.mails
    assert received.content == content
    assert (received.mail_from, received.recipients) == (ENVELOPE.sender, (ENVELOPE.recipient,))
    await connection.send(ENVELOPE, MAIL)
    assert smtp.mails[1].content == MAIL
    assert verbs(smtp) == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize(
    "content",
    [MAIL, b".Subject: x\r\n\r\n.\r\n..\r\n", b"Subject: x\r\n\r\n" + b"\xff\x80" * 500 + b"\r\n"],
    ids=["plain", "dots", "8bit"],
)
async def test_a_mail_arrives_as_that_of_the_library_does(smtp: ScriptedSmtp, content: bytes) -> None:
    ours = await connector(smtp).connect()
    async with aiosmtplib.SMTP(hostname=smtp.host, port=smtp.port, start_tls=False) as theirs:
        for _ in range(2):
            await ours.send(ENVELOPE, content)
            await theirs.sendmail(ENVELOPE.sender, [ENVELOPE.recipient], content)
    first, second, *more = smtp.mails
    assert (first.content, first.mail_from, first.recipients) == (second.content, second.mail_from, second.recipients)
    assert [one.content for one in more] == [first.content] * 2
    transaction = ["MAIL", "RCPT", "DATA"]
    assert verbs(smtp) == ["EHLO", *transaction, *transaction]
    assert verbs(smtp, 2)[:7] == ["EHLO", *transaction, *transaction]


async def test_replies_are_understood_as_the_library_understands_them(smtp: ScriptedSmtp) -> None:
    for text in ("550 no such user", "550-no such\n550 user", "451 4.7.1 later", "452 ", "554"):
        smtp.script = always("rcpt", Reply(text))
        ours = await connector(smtp).connect()
        with pytest.raises((Deferred, Rejected)) as told:
            await ours.send(ENVELOPE, MAIL)
        async with aiosmtplib.SMTP(hostname=smtp.host, port=smtp.port, start_tls=False) as theirs:
            await theirs.mail(ENVELOPE.sender)
            with pytest.raises(aiosmtplib.SMTPRecipientRefused) as known:
                await theirs.rcpt(ENVELOPE.recipient)
        assert (told.value.code, told.value.text.split()) == (known.value.code, known.value.message.split())


async def test_a_connection_keeps_going_over_many_mails(smtp: ScriptedSmtp) -> None:
    connection = await connector(smtp).connect()
    for number in range(50):
        await connection.send(ENVELOPE, mail(number))
    assert numbers(smtp) == list(range(50))
    assert connection.transactions == 50
    assert connection.is_usable
    assert smtp.sessions == 1


async def test_replies_cut_into_pieces_and_several_lines_are_understood(smtp: ScriptedSmtp) -> None:
    smtp.script = either(
        always("mail", Reply("250-2.1.0 Sender\n250-is\n250 Ok")),
        always("dot", Delay(0.01, Reply("250-2.0.0\n250 Ok"))),
    )
    connection = await connector(smtp).connect()
    for number in range(3):
        await connection.send(ENVELOPE, mail(number))
    assert numbers(smtp) == [0, 1, 2]


# TLS and AUTH


async def test_f42_starttls_comes_once_then_ehlo_then_auth_then_mail(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), username=USER, password=PASSWORD)
    connection = await connector(smtp, **ACCOUNT).connect()
    await connection.send(ENVELOPE, MAIL)
    assert verbs(smtp) == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"]
    [received] = smtp.mails
    assert received.tls
    assert received.authenticated_as == USER


async def test_a_real_server_takes_the_mail_over_starttls_and_auth(trusted: Certificates) -> None:
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


async def test_implicit_tls_is_spoken_from_the_first_byte(
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
async def test_a_certificate_that_proves_nothing_gets_no_mail_and_no_password(
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


async def test_required_tls_is_not_done_without(smtp: ScriptedSmtp) -> None:
    with pytest.raises(Deferred, match="encrypted"):
        await connector(smtp, smtp_tls="required").connect()
    await smtp.wait_for_open_sessions(0)
    assert verbs(smtp) == ["EHLO"]


async def test_credentials_do_not_go_in_the_clear_to_another_host_when_starttls_is_stripped(other_host: str) -> None:
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


async def test_without_credentials_another_host_may_do_without_tls(other_host: str) -> None:
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
async def test_credentials_may_go_in_the_clear_on_this_machine(smtp: ScriptedSmtp, tls: str) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    connection = await connector(smtp, smtp_tls=tls, **ACCOUNT).connect()
    await connection.send(ENVELOPE, MAIL)
    assert smtp.mails[0].authenticated_as == USER


async def test_tls_that_is_off_is_not_begun(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context())
    connection = await connector(smtp, smtp_tls="off").connect()
    await connection.send(ENVELOPE, MAIL)
    assert not smtp.mails[0].tls


@pytest.mark.parametrize("host", ["email-smtp.us-west-2.amazonaws.com", "10.0.0.1", "192.0.2.1", "::2", "localhost.x"])
def test_settings_that_would_send_the_password_in_the_clear_are_refused(host: str) -> None:
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
        ("0.0.0.0", False),  # noqa: S104 - no one binds it
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_only_the_loopback_counts_as_this_machine(host: str, *, is_here: bool) -> None:
    assert is_loopback(host) is is_here


async def test_what_was_said_before_tls_is_not_believed_after_it(trusted: Certificates, smtp: ScriptedSmtp) -> None:
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
async def test_a_starttls_that_fails_leaves_nothing_locked_or_open(
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


async def test_454_then_a_garbled_handshake_then_health(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), username=USER, password=PASSWORD)

    def script(moment: Moment) -> Action | None:
        answers: dict[int, Action] = {1: Reply("454 TLS not available"), 2: Garbage(b"220 go\r\nnot TLS at all\r\n")}
        return answers.get(moment.session) if moment.stage == "starttls" else None

    smtp.script = script
    opener = connector(smtp, **ACCOUNT)
    for _ in range(2):
        with pytest.raises(Deferred):
            await opener.connect()
    connection = await opener.connect()
    await connection.send(ENVELOPE, MAIL)
    assert smtp.mails[0].authenticated_as == USER


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("535 5.7.8 Authentication Credentials Invalid", Barred),
        ("530 5.7.0 Must issue a STARTTLS command first", Barred),
        ("454 4.7.0 Temporary authentication failure", Deferred),
        ("421 4.3.2 Too many concurrent connections", Deferred),
        ("451 4.3.0 Try again", Deferred),
    ],
)
async def test_auth_that_is_refused_bars_the_account_unless_it_is_for_a_passing_reason(
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


async def test_a_server_without_an_auth_method_that_we_know_bars_the_account(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(advertise=("AUTH GSSAPI XOAUTH2",))
    with pytest.raises(Barred, match="AUTH method"):
        await connector(smtp, **ACCOUNT).connect()


async def test_plain_is_preferred_and_carries_the_password_as_it_is(smtp: ScriptedSmtp) -> None:
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
async def test_an_opening_that_fails_is_deferred_or_barred_and_leaves_nothing_open(
    smtp: ScriptedSmtp, stage: Stage, action: Action
) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = first(1, stage, action)
    opener = connector(smtp, smtp_timeout_seconds=patience(action), **ACCOUNT)
    with pytest.raises((Deferred, Barred)):
        await opener.connect()
    await smtp.wait_for_open_sessions(0)
    connection = await opener.connect()
    await connection.send(ENVELOPE, MAIL)
    assert len(smtp.mails) == 1


@pytest.mark.parametrize("stage", ["ehlo", "auth"])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_that_hangs_up_right_after_its_last_word_is_no_crash(
    trusted: Certificates, smtp: ScriptedSmtp, stage: Stage, *, tls: bool
) -> None:
    account = ACCOUNT if stage == "auth" else {}
    smtp.options = scripted_smtp.Options(
        tls=trusted.server_context() if tls else None, username=account.get("smtp_username"), password=PASSWORD
    )
    said = Reply("235 2.7.0 welcome" if stage == "auth" else "250 localhost", close=True)
    smtp.script = always(stage, said)
    for _ in range(5):
        with pytest.raises(Deferred):
            connection = await connector(smtp, **account).connect()
            await connection.send(ENVELOPE, MAIL)


async def test_nobody_there_is_deferred(smtp: ScriptedSmtp) -> None:
    await smtp.stop()
    with pytest.raises(Deferred):
        await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connector(smtp, smtp_host="no-such-host.invalid").connect()


@ON_UVLOOP
async def test_the_opening_as_a_whole_is_given_up_in_time(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD, reply_delay=0.2)
    with pytest.raises(Deferred, match="in time"):
        await connector(smtp, smtp_timeout_seconds=0.5, **ACCOUNT).connect()
    await smtp.wait_for_open_sessions(0)


async def test_an_opening_that_is_cancelled_leaves_nothing_open(smtp: ScriptedSmtp) -> None:
    smtp.script = always("ehlo", Silence())
    task = asyncio.create_task(connector(smtp).connect())
    await until(lambda: smtp.sessions == 1 and verbs(smtp) == ["EHLO"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await smtp.wait_for_open_sessions(0)


# Refusals


@pytest.mark.parametrize("stage", TRANSACTION)
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("450 4.2.1 mailbox busy", Deferred),
        ("451 4.3.0 try again", Deferred),
        ("454 Throttling failure: Maximum sending rate exceeded.", Deferred),
        ("454 Throttling failure: Daily message quota exceeded.", Barred),
        ("454-Throttling failure:\n454 Daily message quota exceeded.", Barred),
        ("550 5.1.1 no such user", Rejected),
        ("554 Transaction failed: Configuration set x does not exist.", Rejected),
        ("552 5.3.4 too large", Rejected),
    ],
)
async def test_refusals_are_sorted_and_the_connection_is_good_for_the_next_mail(
    smtp: ScriptedSmtp, stage: Stage, reply: str, kind: type[DeliveryError]
) -> None:
    smtp.script = first(1, stage, Reply(reply))
    connection = await connector(smtp).connect()
    with pytest.raises(DeliveryError) as refusal:
        await connection.send(ENVELOPE, mail(1))
    assert type(refusal.value) is kind
    assert refusal.value.code == int(reply[:3])
    assert refusal.value.text == reply.replace("454-", "").replace("\n454", "")[4 if "-" not in reply[:4] else 0 :]
    assert connection.is_usable
    await connection.send(ENVELOPE, mail(2))
    await connection.send(ENVELOPE, mail(3))
    assert numbers(smtp) == [2, 3]
    assert verbs(smtp).count("RSET") == 1
    assert smtp.sessions == 1


@pytest.mark.parametrize(
    "reply", ["500 5.5.1 no such command", "502 no", "451 4.4.2 idle", "554 5.7.0 too many errors"]
)
async def test_a_reset_that_is_refused_says_nothing_about_the_mail(smtp: ScriptedSmtp, reply: str) -> None:
    smtp.script = either(first(1, "rcpt", Reply("550 5.1.1 no such user")), always("rset", Reply(reply)))
    connection = await connector(smtp).connect()
    with pytest.raises(Rejected):
        await connection.send(ENVELOPE, mail(1))
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, mail(2))
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_text_that_quotes_addresses_is_redacted(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = first(1, stage, Reply("550-5.1.1 <alice@example.com>:\n550 unknown (bob.b@example.org)"))
    connection = await connector(smtp).connect()
    with pytest.raises(Rejected) as refusal:
        await connection.send(ENVELOPE, MAIL)
    assert refusal.value.text == "5.1.1 <a***@example.com>: unknown (b***@example.org)"
    assert "alice" not in str(refusal.value)


async def test_text_that_comes_unasked_or_while_opening_is_redacted_too(smtp: ScriptedSmtp) -> None:
    smtp.script = either(
        first(1, "greeting", Reply("554 alice@example.com is not welcome")),
        first(1, "dot", Garbage(b"blocked: alice@example.com\r\n")),
    )
    with pytest.raises(Deferred) as opening:
        await connector(smtp).connect()
    connection = await connector(smtp).connect()
    with pytest.raises(Uncertain) as sending:
        await connection.send(ENVELOPE, MAIL)
    for error in (opening.value, sending.value):
        assert "a***@example.com" in error.text
        assert "alice" not in str(error)


@pytest.mark.parametrize("stage", TRANSACTION)
@pytest.mark.parametrize("close", [True, False])
async def test_421_at_any_point_is_no_fault_of_the_mail(smtp: ScriptedSmtp, stage: Stage, *, close: bool) -> None:
    smtp.script = always(stage, Reply("421 4.3.2 Maximum message count per session reached.", close=close))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred) as early:
        await connection.send(ENVELOPE, MAIL)
    assert type(early.value) is Deferred
    assert early.value.code == 421
    assert not connection.is_usable
    kept = await warm(smtp)
    with pytest.raises(ConnectionStale):
        await kept.send(ENVELOPE, MAIL)
    assert not kept.is_usable
    await smtp.wait_for_open_sessions(0)


async def test_a_mail_limit_per_session_makes_the_connection_stale(smtp: ScriptedSmtp) -> None:
    smtp.script = after(10, "mail", Reply("421 4.3.2 Maximum message count per session reached.", close=True))
    connection = await connector(smtp).connect()
    for number in range(10):
        await connection.send(ENVELOPE, mail(number))
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, mail(10))


async def test_an_idle_timeout_makes_the_connection_stale(smtp: ScriptedSmtp) -> None:
    smtp.script = always("mail", Reply("451 4.4.2 Timeout waiting for data from client.", close=True))
    connection = await warm(smtp)
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable


# Losses


@ON_UVLOOP
@pytest.mark.parametrize("stage", BEFORE_THE_DOT)
@pytest.mark.parametrize("action", LOSSES, ids=repr)
async def test_a_loss_before_the_dot_may_be_tried_again(smtp: ScriptedSmtp, stage: Stage, action: Action) -> None:
    smtp.script = always(stage, action)
    fresh = await connector(smtp, smtp_timeout_seconds=patience(action)).connect()
    kept = await warm(smtp, smtp_timeout_seconds=patience(action))
    sendings = (fresh.send(ENVELOPE, MAIL), kept.send(ENVELOPE, MAIL))
    outcomes = await asyncio.gather(*sendings, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Deferred, ConnectionStale]
    assert not fresh.is_usable
    assert not kept.is_usable
    await smtp.wait_for_open_sessions(0)


@ON_UVLOOP
@pytest.mark.parametrize("action", [*LOSSES, *map(Store, LOSSES), Reply("354 go on"), Reply("150 hm")], ids=repr)
async def test_no_answer_to_the_dot_is_uncertain(smtp: ScriptedSmtp, action: Action) -> None:
    smtp.script = always("dot", action)
    fresh = await connector(smtp, smtp_timeout_seconds=patience(action)).connect()
    kept = await warm(smtp, smtp_timeout_seconds=patience(action))
    sendings = (fresh.send(ENVELOPE, MAIL), kept.send(ENVELOPE, MAIL))
    outcomes = await asyncio.gather(*sendings, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Uncertain, Uncertain]
    assert not fresh.is_usable
    assert not kept.is_usable
    await smtp.wait_for_open_sessions(0)


async def test_a_mail_that_was_stored_before_the_connection_went_is_uncertain(smtp: ScriptedSmtp) -> None:
    smtp.script = always("dot", STORE_THEN_CLOSE)
    connection = await connector(smtp).connect()
    with pytest.raises(Uncertain):
        await connection.send(ENVELOPE, MAIL)
    assert len(smtp.mails) == 1


async def test_a_farewell_right_behind_354_leaves_no_doubt_that_nothing_was_sent(smtp: ScriptedSmtp) -> None:
    smtp.script = always("data", Garbage(b"354 go ahead\r\n421 4.3.2 shutting down\r\n"))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connection.send(ENVELOPE, MAIL)
    kept = await warm(smtp)
    with pytest.raises(ConnectionStale):
        await kept.send(ENVELOPE, MAIL)
    assert smtp.mails == [smtp.mails[0]]


async def test_data_that_is_answered_by_anything_but_354_never_carries_the_mail(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "data", Garbage(b"250 2.0.0 Ok\r\n"))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


@pytest.mark.parametrize("answer", [b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n", b"250 Ok\r\n421 bye\r\n", b"250 Ok\r\n250-"])
@pytest.mark.parametrize("stage", BEFORE_THE_DOT[:2])
async def test_two_answers_to_one_command_never_shift_to_the_next(
    smtp: ScriptedSmtp, stage: Stage, answer: bytes
) -> None:
    smtp.script = first(1, stage, Garbage(answer))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable
    assert verbs(smtp)[-1] == {"mail": "MAIL", "rcpt": "RCPT"}[stage]


async def test_two_answers_to_the_dot_let_the_mail_pass_and_the_connection_go(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "dot", Store(Garbage(b"250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n")))
    connection = await connector(smtp).connect()
    await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)


async def test_a_late_answer_is_never_that_of_the_next_mail(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "rcpt", Delay(PATIENCE * 2))
    connection = await connector(smtp, smtp_timeout_seconds=PATIENCE).connect()
    with pytest.raises(Deferred, match="no reply within"):
        await connection.send(ENVELOPE, mail(1))
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, mail(2))
    await smtp.wait_for_open_sessions(0)
    assert smtp.mails == []


async def test_the_farewell_of_an_idle_server_is_noticed_before_the_next_mail(smtp: ScriptedSmtp) -> None:
    connection = await warm(smtp)
    smtp.unsolicited("421 4.4.2 idle too long")
    await until(lambda: not connection.is_usable)
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)


@pytest.mark.parametrize("how", ["reset_sessions", "stop"])
async def test_a_server_that_vanishes_between_mails_makes_the_connection_stale(smtp: ScriptedSmtp, how: str) -> None:
    connection = await warm(smtp)
    ended = getattr(smtp, how)()
    if ended:
        await ended
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable


async def test_tls_that_is_cut_without_a_farewell_makes_the_connection_stale(
    trusted: Certificates, smtp: ScriptedSmtp
) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context())
    smtp.script = always("mail", Close())
    for cut in (None, smtp.reset_sessions):
        connection = await warm(smtp)
        if cut:
            cut()
        with pytest.raises(ConnectionStale):
            await connection.send(ENVELOPE, MAIL)
        assert not connection.is_usable


@ON_UVLOOP
@pytest.mark.parametrize("stage", TRANSACTION)
async def test_a_transaction_is_given_up_in_time_wherever_it_stalls(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, Silence())
    connection = await connector(smtp, smtp_timeout_seconds=PATIENCE).connect()
    started = time.monotonic()
    with pytest.raises(DeliveryError, match="no reply within"):
        await connection.send(ENVELOPE, MAIL)
    assert PATIENCE * 0.9 <= time.monotonic() - started < PATIENCE + LENIENCE
    await smtp.wait_for_open_sessions(0)


@ON_UVLOOP
async def test_a_transaction_that_creeps_is_given_up_as_a_whole(smtp: ScriptedSmtp) -> None:
    connection = await connector(smtp, smtp_timeout_seconds=0.3).connect()
    smtp.options.reply_delay = 0.2
    with pytest.raises(Deferred, match="no reply within"):
        await connection.send(ENVELOPE, MAIL)


@pytest.mark.parametrize(
    ("answer", "seconds", "kind"), [(b"421 4.3.2 shutting down\r\n", 5.0, Deferred), (b"", 1.0, Uncertain)]
)
async def test_a_server_that_reads_no_more_gets_no_more(
    answer: bytes, seconds: float, kind: type[DeliveryError]
) -> None:
    given_up, read = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (b"220 hi\r\n", b"250 localhost\r\n", b"250 Ok\r\n", b"250 Ok\r\n"):
            writer.write(reply)
            await reader.readline()
        writer.write(b"354 go\r\n")
        await reader.read(1)
        writer.write(answer)
        await given_up.wait()
        read.set_result(len(await reader.read()))
        writer.close()

    content = b"0123456789abcdef" * 2_000_000 + b"\r\n"
    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = RelaySettings(smtp_port=port, smtp_timeout_seconds=seconds)
        connection = await Connector(settings).connect()
        try:
            with pytest.raises(kind):
                await connection.send(ENVELOPE, content)
        finally:
            given_up.set()
        async with asyncio.timeout(5):
            assert await read < len(content) / 2


@pytest.mark.parametrize("stage", BEFORE_THE_DOT)
async def test_a_send_that_is_cancelled_before_the_dot_drops_the_connection(smtp: ScriptedSmtp, stage: Stage) -> None:
    task, connection = await stalled(smtp, stage)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


async def test_a_send_that_is_cancelled_after_the_dot_is_uncertain(smtp: ScriptedSmtp) -> None:
    task, connection = await stalled(smtp, "dot")
    task.cancel()
    with pytest.raises(Uncertain, match="broken off"):
        await task
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


async def stalled(smtp: ScriptedSmtp, stage: Stage) -> tuple[asyncio.Task[None], SmtpConnection]:
    """A mail under way that the server will never answer."""
    reached = asyncio.Event()

    def script(moment: Moment) -> Action | None:
        if moment.stage != stage:
            return None
        reached.set()
        return Silence()

    smtp.script = script
    connection = await connector(smtp, smtp_timeout_seconds=10).connect()
    task = asyncio.create_task(connection.send(ENVELOPE, MAIL))
    await reached.wait()
    return task, connection


# Leaving


@ON_UVLOOP
@pytest.mark.parametrize(
    "action", [Silence(), Close(), Reset(), Garbage(b"\xff\r\n"), Reply("500 what"), None], ids=repr
)
async def test_quit_ends_the_connection_whatever_the_server_makes_of_it(
    smtp: ScriptedSmtp, action: Action | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", PATIENCE)
    smtp.script = per_session(1, "quit", action) if action else lambda _: None
    connection = await warm(smtp)
    started = time.monotonic()
    await connection.quit()
    assert time.monotonic() - started < PATIENCE + LENIENCE
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)
    assert numbers(smtp) == [0]


async def test_quit_does_not_wait_for_a_server_that_has_gone(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", 60)
    connection = await warm(smtp)
    await smtp.stop()
    async with asyncio.timeout(LENIENCE):
        await connection.quit()


async def test_quit_over_tls_does_not_wait_for_the_servers_farewell(
    trusted: Certificates, smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", PATIENCE)
    smtp.options = scripted_smtp.Options(tls=trusted.server_context())
    smtp.script = always("quit", Silence())
    connection = await warm(smtp)
    await connection.quit()
    await smtp.wait_for_open_sessions(0, timeout=2)

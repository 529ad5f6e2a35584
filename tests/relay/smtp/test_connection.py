# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The transactions of one SMTP connection: content, refusals, QUIT."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiosmtplib
import pytest

from relay.errors import (
    AccountRefused,
    ConnectionStale,
    Deferred,
    DeliveryError,
    Rejected,
    Uncertain,
)
from relay.smtp import connection as smtp_connection
from tests.relay.inputs import ENVELOPE, MAIL, connector, mail, numbers
from tests.relay.smtp.sessions import LENIENCE, ON_UVLOOP, PATIENCE, TRANSACTION, verbs, warm
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import (
    Close,
    Delay,
    Garbage,
    Reply,
    Reset,
    Silence,
    always,
    either,
    first,
    per_session,
)

if TYPE_CHECKING:
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage


# Content


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
async def test_the_server_gets_the_same_bytes_as_from_the_library(smtp: ScriptedSmtp, content: bytes) -> None:
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


async def test_replies_are_read_as_by_the_library(smtp: ScriptedSmtp) -> None:
    for text in ("550 no such user", "550-no such\n550 user", "451 4.7.1 later", "452 ", "554"):
        smtp.script = always("rcpt", Reply(text))
        ours = await connector(smtp).connect()
        with pytest.raises((Deferred, Rejected)) as refusal:
            await ours.send(ENVELOPE, MAIL)
        async with aiosmtplib.SMTP(hostname=smtp.host, port=smtp.port, start_tls=False) as theirs:
            await theirs.mail(ENVELOPE.sender)
            with pytest.raises(aiosmtplib.SMTPRecipientRefused) as known:
                await theirs.rcpt(ENVELOPE.recipient)
        assert (refusal.value.code, refusal.value.text.split()) == (known.value.code, known.value.message.split())


async def test_a_connection_sends_many_mails(smtp: ScriptedSmtp) -> None:
    connection = await connector(smtp).connect()
    for number in range(50):
        await connection.send(ENVELOPE, mail(number))
    assert numbers(smtp) == list(range(50))
    assert connection.transactions == 50
    assert connection.is_usable
    assert smtp.sessions == 1


async def test_replies_in_pieces_and_of_several_lines_are_read(smtp: ScriptedSmtp) -> None:
    smtp.script = either(
        always("mail", Reply("250-2.1.0 Sender\n250-is\n250 Ok")),
        always("dot", Delay(0.01, Reply("250-2.0.0\n250 Ok"))),
    )
    connection = await connector(smtp).connect()
    for number in range(3):
        await connection.send(ENVELOPE, mail(number))
    assert numbers(smtp) == [0, 1, 2]


# Refusals


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ("451 4.3.0 try again", Deferred, "4.3.0 try again"),
        ("454-Throttling failure:\n454 Daily message quota exceeded.", AccountRefused, None),
        ("550 5.1.1 no such user", Rejected, "5.1.1 no such user"),
    ],
)
async def test_a_refusal_raises_the_error_that_its_reply_means(
    smtp: ScriptedSmtp, reply: str, kind: type[DeliveryError], text: str | None
) -> None:
    smtp.script = first(1, "rcpt", Reply(reply))
    connection = await connector(smtp).connect()
    with pytest.raises(DeliveryError) as refusal:
        await connection.send(ENVELOPE, MAIL)
    assert type(refusal.value) is kind
    assert refusal.value.code == int(reply[:3])
    assert text in {None, refusal.value.text}


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_after_a_refusal_at_any_stage_the_connection_sends_the_next_mail(
    smtp: ScriptedSmtp, stage: Stage
) -> None:
    smtp.script = first(1, stage, Reply("550 5.1.1 no such user"))
    connection = await connector(smtp).connect()
    with pytest.raises(Rejected):
        await connection.send(ENVELOPE, mail(1))
    assert connection.is_usable
    await connection.send(ENVELOPE, mail(2))
    await connection.send(ENVELOPE, mail(3))
    assert numbers(smtp) == [2, 3]
    assert verbs(smtp).count("RSET") == 1
    assert smtp.sessions == 1


@pytest.mark.parametrize("reply", ["502 no", "451 4.4.2 idle"])
async def test_a_refused_reset_makes_the_connection_stale(smtp: ScriptedSmtp, reply: str) -> None:
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


async def test_unexpected_text_and_the_greeting_are_redacted_too(smtp: ScriptedSmtp) -> None:
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
async def test_421_at_any_stage_is_deferred_or_stale(smtp: ScriptedSmtp, stage: Stage, *, close: bool) -> None:
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


async def test_an_idle_timeout_makes_the_connection_stale(smtp: ScriptedSmtp) -> None:
    smtp.script = always("mail", Reply("451 4.4.2 Timeout waiting for data from client.", close=True))
    connection = await warm(smtp)
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable


# QUIT


@ON_UVLOOP
@pytest.mark.parametrize(
    "action", [Silence(), Close(), Reset(), Garbage(b"\xff\r\n"), Reply("500 what"), None], ids=repr
)
async def test_quit_closes_the_connection_after_any_answer_of_the_server(
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


async def test_quit_does_not_wait_for_a_lost_server(smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", 60)
    connection = await warm(smtp)
    await smtp.stop()
    async with asyncio.timeout(LENIENCE):
        await connection.quit()


async def test_quit_over_tls_does_not_wait_for_close_notify(
    trusted: Certificates, smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", PATIENCE)
    smtp.options = scripted_smtp.Options(tls=trusted.server_context())
    smtp.script = always("quit", Silence())
    connection = await warm(smtp)
    await connection.quit()
    await smtp.wait_for_open_sessions(0, timeout=20)

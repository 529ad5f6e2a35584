# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both SMTP servers, with a real client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiosmtplib
import pytest

from tests.stack import scripted_smtp, smtp_scripts, smtp_server
from tests.stack.certificates import Certificates
from tests.stack.smtp_scripts import STORE_THEN_CLOSE, Close, Delay, Garbage, Moment, Reply, Reset, Silence

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.scripted_smtp import ScriptedSmtp


SENDER, READER, NOBODY = "noreply@example.org", "reader@example.com", "nobody@example.com"
MAIL = b"From: <noreply@example.org>\r\nSubject: x\r\n\r\n.dot\r\n..two\r\n\xc3\xa4\r\n"


async def test_smtp_server_receives_a_mail_unchanged_over_starttls_with_auth(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with smtp_server.running(
        tls=certificates.server_context(), username="u", password="p", require_starttls=True
    ) as server:
        tls = certificates.client_context()
        client = aiosmtplib.SMTP(hostname="localhost", port=server.port, start_tls=True, tls_context=tls)
        server.refuse(NOBODY, "550 5.1.1 no such user")
        async with client:
            with pytest.raises(aiosmtplib.SMTPSenderRefused, match="Authentication required"):
                await client.mail(SENDER)
            with pytest.raises(aiosmtplib.SMTPAuthenticationError):
                await client.login("u", "wrong")
            await client.login("u", "p")
            refused, _ = await client.sendmail(SENDER, [READER, NOBODY], MAIL)
        assert refused[NOBODY].code == 550
        [mail] = await server.wait_for_mails(1)
        assert (mail.mail_from, mail.recipients, mail.content) == (SENDER, (READER,), MAIL)
        assert mail.tls
        assert mail.authenticated_as == "u"
        assert server.connections == 1


async def test_smtp_server_speaks_implicit_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with smtp_server.running(
        tls=certificates.server_context(), username="u", password="p", implicit_tls=True
    ) as server:
        await aiosmtplib.send(
            MAIL,
            sender=SENDER,
            recipients=[READER],
            hostname="127.0.0.1",
            port=server.port,
            use_tls=True,
            username="u",
            password="p",
            tls_context=certificates.client_context(),
        )
        assert server.mails[0].tls


@pytest.mark.parametrize("context", ["wrong_host_context", "unknown_ca_context"])
async def test_smtp_server_can_have_a_certificate_that_no_client_accepts(tmp_path: Path, context: str) -> None:
    certificates = Certificates(tmp_path)
    async with smtp_server.running(tls=getattr(certificates, context)()) as server:
        client = aiosmtplib.SMTP(
            hostname="localhost", port=server.port, start_tls=True, tls_context=certificates.client_context()
        )
        with pytest.raises((aiosmtplib.SMTPException, OSError)):
            await client.connect()


async def send(server: ScriptedSmtp, *, timeout: float = 5.0, **options: Any) -> None:
    """Send the mail over a connection of its own."""
    async with aiosmtplib.SMTP(hostname="localhost", port=server.port, timeout=timeout, **options) as client:
        await client.sendmail(SENDER, [READER], MAIL)


async def test_scripted_smtp_is_a_correct_server_without_a_script(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    options = scripted_smtp.Options(tls=certificates.server_context(), username="u", password="p")
    async with scripted_smtp.running(options=options) as server:
        await send(server, username="u", password="p", tls_context=certificates.client_context())
        await server.wait_for_open_sessions(0)
        assert server.mails[0].content == MAIL
        assert server.mails[0].tls
        assert server.mails[0].authenticated_as == "u"
        verbs = [line.split()[0] for line in server.commands[0]]
        assert verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await send(server, username="u", password="no", tls_context=certificates.client_context())


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (Reply("454 4.7.0 Throttling failure"), aiosmtplib.SMTPResponseException),
        (Reply("421 4.4.2\n421 bye", close=True), aiosmtplib.SMTPException),
        (Close(), aiosmtplib.SMTPServerDisconnected),
        (Reset(), aiosmtplib.SMTPServerDisconnected),
        (Silence(), aiosmtplib.SMTPTimeoutError),
        (Garbage(b"\x00\xff\r\n"), aiosmtplib.SMTPException),
        (Delay(0.05, then=Close()), aiosmtplib.SMTPServerDisconnected),
    ],
)
@pytest.mark.parametrize("stage", ["mail", "dot"])
async def test_scripted_smtp_takes_the_action_of_its_script_once(
    stage: smtp_scripts.Stage, action: smtp_scripts.Action, error: type[Exception]
) -> None:
    async with scripted_smtp.running(smtp_scripts.first(1, stage, action)) as server:
        with pytest.raises(error):
            await send(server, timeout=0.3)
        assert server.mails == []
        await send(server)
        assert len(server.mails) == 1


async def test_scripted_smtp_can_store_a_mail_and_disconnect() -> None:
    script = smtp_scripts.per_session(1, "dot", STORE_THEN_CLOSE)
    async with scripted_smtp.running(script) as server:
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await send(server)
        assert len(server.mails) == 1


async def test_scripts_get_the_session_and_the_number_of_accepted_mails() -> None:
    moments: list[Moment] = []
    async with scripted_smtp.running(moments.append) as server:
        async with aiosmtplib.SMTP(hostname="localhost", port=server.port) as client:
            for _ in range(2):
                await client.sendmail(SENDER, [READER], MAIL)
        assert [moment.accepted for moment in moments if moment.stage == "dot"] == [0, 1]


async def test_scripted_smtp_ends_idle_sessions_on_request_or_after_a_timeout() -> None:
    async with scripted_smtp.running() as server:
        client = aiosmtplib.SMTP(hostname="localhost", port=server.port)
        await client.connect()
        await client.ehlo()
        assert server.unsolicited("421 4.4.2 idle timeout") == 1
        await server.wait_for_open_sessions(0)
        server.options.idle_timeout = 0.05
        client = aiosmtplib.SMTP(hostname="localhost", port=server.port)
        await client.connect()
        await server.wait_for_open_sessions(0)
        assert (server.sessions, server.max_open_sessions) == (2, 1)

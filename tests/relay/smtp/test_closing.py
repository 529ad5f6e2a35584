# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How SMTP connections end at servers that do not take part in it: nothing stays open uncounted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from relay.errors import AccountRefused, Deferred, DeliveryError
from relay.smtp import connection as smtp_connection
from tests.relay.inputs import ENVELOPE, MAIL, connector
from tests.relay.smtp.senders import sending
from tests.relay.smtp.sessions import ACCOUNT, PASSWORD, USER
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import Deaf, always
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Stage

AT_ONCE = 20.0  # seconds on a busy machine: below the 30 that TLS waits for close_notify


@pytest.fixture(params=[False, True], ids=["starttls", "implicit"])
async def server(
    request: pytest.FixtureRequest, trusted: Certificates, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ScriptedSmtp]:
    """A server with TLS and an account."""
    options = scripted_smtp.Options(
        tls=trusted.server_context(), implicit_tls=request.param, username=USER, password=PASSWORD
    )
    async with scripted_smtp.running(options=options) as running:
        if request.param:
            monkeypatch.setattr(smtp_connection, "IMPLICIT_TLS_PORTS", {running.port})
        yield running


async def closed_by_client(server: ScriptedSmtp) -> None:
    """Wait until the client holds no connection."""
    await until(lambda: not server.held_sessions, timeout=AT_ONCE)


@pytest.mark.parametrize(
    ("stage", "reply", "kind"),
    [
        ("greeting", "421 4.3.2 not now", Deferred),
        ("greeting", "554 5.3.2 never", Deferred),
        ("ehlo", "421 4.3.2 not now", Deferred),
        ("ehlo", "502 5.5.1 no", Deferred),
        ("starttls", "454 4.7.0 TLS not available", Deferred),
        ("starttls", "220 2.0.0 go", Deferred),
        ("auth", "435 4.7.0 Unable to authenticate at present", Deferred),
        ("auth", "421 4.7.0 Too many failures", Deferred),
        ("auth", "535 5.7.8 Authentication Credentials Invalid", AccountRefused),
        ("auth", "235-2.7.0 half a reply", Deferred),
    ],
)
async def test_after_a_failed_handshake_the_connection_is_closed_at_once(
    server: ScriptedSmtp, stage: Stage, reply: str, kind: type[DeliveryError]
) -> None:
    if stage == "starttls" and server.options.implicit_tls:
        pytest.skip("there is no STARTTLS inside TLS")
    server.script = always(stage, Deaf(reply))
    ends_by_itself = reply not in {"220 2.0.0 go", "235-2.7.0 half a reply"}
    with pytest.raises(kind):
        await connector(server, smtp_timeout_seconds=10 if ends_by_itself else 1, **ACCOUNT).connect()
    assert server.open_sessions == 1
    await closed_by_client(server)


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "starttls", "auth"])
async def test_a_cancelled_handshake_is_closed_at_once(server: ScriptedSmtp, stage: Stage) -> None:
    if stage == "starttls" and server.options.implicit_tls:
        pytest.skip("there is no STARTTLS inside TLS")
    server.script = always(stage, Deaf("220-go") if stage != "starttls" else Deaf("220 go"))
    task = asyncio.create_task(connector(server, smtp_timeout_seconds=30, **ACCOUNT).connect())
    await until(lambda: server.sessions == 1)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.open_sessions == 1
    await closed_by_client(server)


@pytest.mark.usefixtures("trusted")
async def test_a_tls_handshake_that_stalls_is_closed_at_its_time_limit() -> None:
    plain = scripted_smtp.ScriptedSmtp(always("greeting", Deaf("")), scripted_smtp.Options())
    await plain.start()
    try:
        opener = connector(plain, smtp_port=plain.port, smtp_timeout_seconds=1)
        opener._implicit_tls = True  # noqa: SLF001 - its port is not 465
        with pytest.raises(Deferred, match="in time"):
            await opener.connect()
        assert plain.open_sessions == 1
        await closed_by_client(plain)
    finally:
        await plain.stop()


@pytest.mark.parametrize("reply", ["221 2.0.0 bye", "500 what", "221-half"])
async def test_quit_is_over_within_its_time_and_nothing_stays_open(
    server: ScriptedSmtp, reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", 0.2)
    server.script = always("quit", Deaf(reply))
    connection = await connector(server, **ACCOUNT).connect()
    await connection.send(ENVELOPE, MAIL)
    started = time.monotonic()
    await connection.quit()
    assert time.monotonic() - started < AT_ONCE + smtp_connection.QUIT_SECONDS
    await until(lambda: not server.held_sessions)
    assert server.open_sessions == 1


async def test_a_cancelled_quit_leaves_nothing_open(server: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", 60)
    server.script = always("quit", Deaf("221 2.0.0 bye"))
    connection = await connector(server, **ACCOUNT).connect()
    quitting = asyncio.create_task(connection.quit())
    await until(lambda: "QUIT" in server.commands[0])
    quitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await quitting
    await closed_by_client(server)


async def test_a_connection_that_is_being_closed_counts_until_it_is_closed(
    server: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_connection, "QUIT_SECONDS", 0.3)
    server.script = always("quit", Deaf("221 2.0.0 bye"))
    most = 0
    async with sending(server, connections=3, messages=1, **ACCOUNT) as sender:
        mails = asyncio.create_task(sender.send_all(range(12)))
        while not mails.done():
            most = max(most, server.held_sessions)
            await asyncio.sleep(0.01)
        await mails
    assert most == 3
    assert len(server.mails) == 12


async def test_refused_logins_leave_no_connections_behind(server: ScriptedSmtp) -> None:
    server.script = always("auth", Deaf("435 4.7.0 Unable to authenticate at present"))
    most = 0
    async with sending(server, connections=20, **ACCOUNT) as sender:
        mails = asyncio.create_task(sender.try_all(range(40), within=1.0))
        while not mails.done():
            most = max(most, server.held_sessions)
            await asyncio.sleep(0.01)
        assert all(isinstance(outcome, Deferred) for outcome in await mails)
        await closed_by_client(server)
    assert most <= 4

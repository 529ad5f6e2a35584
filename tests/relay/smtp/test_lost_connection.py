# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Transactions whose connection is lost, stalls, or has replies too many."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from relay.errors import ConnectionStale, Deferred, DeliveryError, Rejected, Uncertain
from relay.settings import RelaySettings
from relay.smtp.connection import Connector
from tests.relay.inputs import ENVELOPE, MAIL, connector, mail
from tests.relay.smtp.sessions import (
    BEFORE_THE_DOT,
    LENIENCE,
    LOSSES,
    ON_UVLOOP,
    PATIENCE,
    TRANSACTION,
    opened,
    patience,
    verbs,
    warm,
)
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import (
    Close,
    Delay,
    Garbage,
    Moment,
    Reply,
    Silence,
    Store,
    always,
    first,
)
from tests.stack.waiting import until

if TYPE_CHECKING:
    from relay.smtp.connection import SmtpConnection
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage


UNCLEAR: list[Action] = [
    Reply("354 go on"),
    Reply("150 hm"),
    Store(Garbage(b"250-half a reply\r\n421 4.3.2 shutting down\r\n")),  # RFC 5321, 4.2.1: all lines have one code
    Store(Garbage(b"250-half a reply\r\n554 5.0.0 no\r\n")),
]


@ON_UVLOOP
@pytest.mark.parametrize("stage", BEFORE_THE_DOT)
@pytest.mark.parametrize("action", LOSSES, ids=repr)
async def test_a_loss_before_the_dot_is_deferred_or_stale(smtp: ScriptedSmtp, stage: Stage, action: Action) -> None:
    smtp.script = always(stage, action)
    fresh = await opened(smtp, patience(action))
    kept = await warm(smtp, patience(action))
    sendings = (fresh.send(ENVELOPE, MAIL), kept.send(ENVELOPE, MAIL))
    outcomes = await asyncio.gather(*sendings, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Deferred, ConnectionStale]
    assert not fresh.is_usable
    assert not kept.is_usable
    await smtp.wait_for_open_sessions(0)


@ON_UVLOOP
@pytest.mark.parametrize("action", [*LOSSES, *map(Store, LOSSES), *UNCLEAR], ids=repr)
async def test_a_dot_without_a_reply_is_uncertain(smtp: ScriptedSmtp, action: Action) -> None:
    smtp.script = always("dot", action)
    fresh = await opened(smtp, patience(action))
    kept = await warm(smtp, patience(action))
    sendings = (fresh.send(ENVELOPE, MAIL), kept.send(ENVELOPE, MAIL))
    outcomes = await asyncio.gather(*sendings, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Uncertain, Uncertain]
    assert not fresh.is_usable
    assert not kept.is_usable
    await smtp.wait_for_open_sessions(0)


async def test_a_421_right_after_354_means_that_nothing_was_sent(smtp: ScriptedSmtp) -> None:
    smtp.script = always("data", Garbage(b"354 go ahead\r\n421 4.3.2 shutting down\r\n"))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connection.send(ENVELOPE, MAIL)
    kept = await warm(smtp)
    with pytest.raises(ConnectionStale):
        await kept.send(ENVELOPE, MAIL)
    assert smtp.mails == [smtp.mails[0]]


async def test_without_354_no_mail_is_sent(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "data", Garbage(b"250 2.0.0 Ok\r\n"))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


@pytest.mark.parametrize("answer", [b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n", b"250 Ok\r\n421 bye\r\n", b"250 Ok\r\n250-"])
@pytest.mark.parametrize("stage", BEFORE_THE_DOT[:2])
async def test_a_second_reply_to_a_command_does_not_count_for_the_next(
    smtp: ScriptedSmtp, stage: Stage, answer: bytes
) -> None:
    smtp.options = scripted_smtp.Options(advertise=())
    smtp.script = first(1, stage, Garbage(answer))
    connection = await connector(smtp).connect()
    with pytest.raises(Deferred):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable
    assert verbs(smtp)[-1] == {"mail": "MAIL", "rcpt": "RCPT"}[stage]


async def test_with_two_replies_to_the_dot_the_mail_is_sent_and_the_connection_closed(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "dot", Store(Garbage(b"250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n")))
    connection = await connector(smtp).connect()
    await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)


async def test_a_late_reply_does_not_count_for_the_next_mail(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "rcpt", Delay(PATIENCE * 2))
    connection = await opened(smtp, PATIENCE)
    with pytest.raises(Deferred, match="no reply within"):
        await connection.send(ENVELOPE, mail(1))
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, mail(2))
    await smtp.wait_for_open_sessions(0)
    assert smtp.mails == []


async def test_a_421_to_an_idle_connection_makes_it_stale(smtp: ScriptedSmtp) -> None:
    connection = await warm(smtp)
    smtp.unsolicited("421 4.4.2 idle too long")
    await until(lambda: not connection.is_usable)
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)


@pytest.mark.parametrize("how", ["reset_sessions", "stop"])
async def test_a_lost_server_between_mails_makes_the_connection_stale(smtp: ScriptedSmtp, how: str) -> None:
    connection = await warm(smtp)
    ended = getattr(smtp, how)()
    if ended:
        await ended
    with pytest.raises(ConnectionStale):
        await connection.send(ENVELOPE, MAIL)
    assert not connection.is_usable


async def test_tls_that_ends_without_close_notify_makes_the_connection_stale(
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
async def test_a_stalled_transaction_ends_at_its_time_limit(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, Silence())
    connection = await opened(smtp, PATIENCE)
    started = time.monotonic()
    with pytest.raises(DeliveryError, match="no reply within"):
        await connection.send(ENVELOPE, MAIL)
    assert PATIENCE * 0.9 <= time.monotonic() - started < PATIENCE + LENIENCE
    await smtp.wait_for_open_sessions(0)


@ON_UVLOOP
async def test_the_time_limit_is_for_the_whole_transaction(smtp: ScriptedSmtp) -> None:
    connection = await opened(smtp, 0.3)
    smtp.options.reply_delay = 0.2
    with pytest.raises(Deferred, match="no reply within"):
        await connection.send(ENVELOPE, MAIL)


@pytest.mark.parametrize(
    ("answer", "seconds", "kind"),
    [
        (b"421 4.3.2 shutting down\r\n", 5.0, Deferred),
        (b"452 4.3.1 no space\r\n", 5.0, Deferred),
        (b"552 5.3.4 too large\r\n", 5.0, Rejected),
        (b"250 2.0.0 Ok\r\n", 5.0, Uncertain),
        (b"", 1.0, Uncertain),
    ],
)
async def test_a_server_that_does_not_read_all_of_the_message_gets_no_more_data(
    answer: bytes, seconds: float, kind: type[DeliveryError]
) -> None:
    abandoned, read = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (b"220 hi\r\n", b"250 localhost\r\n", b"250 Ok\r\n", b"250 Ok\r\n"):
            writer.write(reply)
            await reader.readline()
        writer.write(b"354 go\r\n")
        await reader.read(1)
        writer.write(answer)
        await abandoned.wait()
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
            assert not connection.is_usable
        finally:
            abandoned.set()
        async with asyncio.timeout(20):
            assert await read < len(content) / 2


@pytest.mark.parametrize("stage", BEFORE_THE_DOT)
async def test_a_send_cancelled_before_the_dot_drops_the_connection(smtp: ScriptedSmtp, stage: Stage) -> None:
    task, connection = await stalled(smtp, stage)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


async def test_a_send_cancelled_after_the_dot_is_uncertain(smtp: ScriptedSmtp) -> None:
    task, connection = await stalled(smtp, "dot")
    task.cancel()
    with pytest.raises(Uncertain, match="interrupted"):
        await task
    assert not connection.is_usable
    await smtp.wait_for_open_sessions(0)


async def stalled(smtp: ScriptedSmtp, stage: Stage) -> tuple[asyncio.Task[None], SmtpConnection]:
    """A send that the server will never answer, and its connection."""
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

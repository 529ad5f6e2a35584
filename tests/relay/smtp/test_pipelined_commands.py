# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""MAIL, RCPT and DATA in one write: each mix of replies, and servers that offer it and cannot do it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import AccountRefused, ConnectionStale, Deferred, DeliveryError, Rejected
from relay.settings import RelaySettings
from relay.smtp import connection as smtp_connection
from relay.smtp import pipelining
from relay.smtp.connection import Connector
from relay.smtp.pool import Pool, PoolLimits
from tests.relay.inputs import ENVELOPE, MAIL, connector, mail, numbers
from tests.relay.smtp import misled_smtp
from tests.relay.smtp.senders import QUOTA, Sender
from tests.relay.smtp.sessions import BEFORE_THE_DOT, PATIENCE, verbs, warm
from tests.stack import scripted_smtp, smtp_server
from tests.stack.smtp_scripts import Close, Delay, Garbage, Moment, Reply, Reset, Silence, always, either, first
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.smtp.connection import SmtpConnection
    from tests.relay.smtp.misled_smtp import Habit
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Script, Stage

WITHOUT = ("SIZE 41943040",)
GROUP = ["MAIL", "RCPT", "DATA"]
TIMED_OUT = Reply("451 4.4.2 Timeout waiting for data from client.", close=True)
NO_RECIPIENT = Reply("554 5.5.1 no valid recipients")


async def proven(smtp: ScriptedSmtp, seconds: float | None = None, **changes: float) -> SmtpConnection:
    """A kept connection to a server that has answered pipelined commands; its script begins after them."""
    return await warm(smtp, seconds, **changes)


async def refusal(connection: SmtpConnection) -> DeliveryError:
    """The error of a send."""
    with pytest.raises(DeliveryError) as caught:
        await connection.send(ENVELOPE, mail(1))
    return caught.value


def replies(**actions: Action) -> Script:
    """Take these actions the first time that each stage is reached."""
    stages: dict[str, Stage] = {"rset": "rset", "mail": "mail", "rcpt": "rcpt", "data": "data", "dot": "dot"}
    return either(*(first(1, stages[name], action) for name, action in actions.items()))


# One write


@pytest.mark.parametrize("offered", [True, False])
async def test_the_commands_are_in_one_write_where_the_server_offers_it(*, offered: bool) -> None:
    received: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-localhost\r\n250 PIPELINING\r\n" if offered else b"250 localhost\r\n")
        while len(received) < 1 + 2 * (not offered):
            received.append(await reader.read(1000))
            writer.write(b"250 Ok\r\n250 Ok\r\n354 go\r\n" if offered else b"250 Ok\r\n")
        if not offered:
            writer.write(b"unexpected")
        await reader.readuntil(b"\r\n.\r\n") if offered else None
        writer.write(b"250 Ok\r\n")
        writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = await Connector(RelaySettings(smtp_port=port, smtp_timeout_seconds=5)).connect()
        if offered:
            await connection.send(ENVELOPE, MAIL)
        else:
            await refusal(connection)
    commands = [b"MAIL FROM:<noreply@lfx.linuxfoundation.org>\r\n", b"RCPT TO:<alice@example.com>\r\n", b"DATA\r\n"]
    assert received == ([b"".join(commands)] if offered else commands)


@pytest.mark.parametrize(("before", "inside"), [(True, False), (False, True)])
async def test_the_ehlo_inside_tls_decides(
    trusted: Certificates, smtp: ScriptedSmtp, *, before: bool, inside: bool
) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), advertise=("PIPELINING",) if inside else ("X",))
    outside = Reply(f"250-localhost\n250-{'PIPELINING' if before else 'X'}\n250 STARTTLS")
    smtp.script = either(first(1, "ehlo", outside), always("mail", Reply("550 5.7.1 no")))
    await refusal(await connector(smtp).connect())
    assert verbs(smtp) == ["EHLO", "STARTTLS", "EHLO", *(GROUP if inside else ["MAIL"])]


async def test_a_real_server_gets_pipelined_mails_and_refuses_a_recipient(trusted: Certificates) -> None:
    async with smtp_server.running(tls=trusted.server_context(), require_starttls=True, pipelining=True) as server:
        settings = RelaySettings(smtp_host="localhost", smtp_port=server.port, smtp_timeout_seconds=5)
        connection = await Connector(settings).connect()
        await connection.send(ENVELOPE, mail(1))
        server.refuse(ENVELOPE.recipient, "550 5.1.1 no such user")
        for _ in range(3):
            with pytest.raises(Rejected, match="no such user"):
                await connection.send(ENVELOPE, MAIL)
        server.refused.clear()
        await connection.send(ENVELOPE, mail(2))
        assert [one.content for one in server.mails] == [mail(1), mail(2)]
        assert (server.connections, server.pipelined) == (1, 5)
        await connection.quit()
        await until(lambda: not server.open_connections)


# Refusals


class Mix(NamedTuple):
    """What the server does, the error, and whether the connection can be used afterwards."""

    script: Script
    kind: type[DeliveryError]
    code: int
    usable: bool
    seconds: float = 5.0  # for the transaction, and for the reply to an empty message


OK, GO = Reply("250 Ok"), Reply("354 go")
USER, LATER, BYE = Reply("550 5.1.1 no such user"), Reply("451 4.3.0 later"), Reply("421 4.3.2 bye", close=True)
MIXES = {
    "mail-refused": Mix(replies(mail=LATER), Deferred, 451, usable=True),
    "mail-refused-permanently": Mix(replies(mail=USER), Rejected, 550, usable=True),
    "quota": Mix(replies(mail=QUOTA), AccountRefused, 454, usable=True),
    "mail-refused-then-other-codes": Mix(replies(mail=LATER, rcpt=USER, data=USER), Deferred, 451, usable=True),
    "mail-refused-others-accepted": Mix(replies(mail=USER, rcpt=OK, data=GO), Rejected, 550, usable=False),
    "mail-and-rcpt-refused-data-accepted": Mix(
        replies(mail=LATER, rcpt=USER, data=GO, dot=NO_RECIPIENT), Deferred, 451, usable=True
    ),
    "rcpt-refused": Mix(replies(rcpt=USER), Rejected, 550, usable=True),
    "rcpt-refused-of-several-lines": Mix(replies(rcpt=Reply("550-5.1.1 no\n550 user")), Rejected, 550, usable=True),
    "rcpt-refused-data-deferred": Mix(replies(rcpt=USER, data=LATER), Rejected, 550, usable=True),
    "rcpt-refused-data-accepted": Mix(replies(rcpt=USER, data=GO, dot=NO_RECIPIENT), Rejected, 550, usable=True),
    "rcpt-refused-empty-message-accepted": Mix(replies(rcpt=LATER, data=GO, dot=OK), Deferred, 451, usable=False),
    "rcpt-refused-empty-message-421": Mix(replies(rcpt=USER, data=GO, dot=BYE), Rejected, 550, usable=False),
    "rcpt-refused-empty-message-lost": Mix(replies(rcpt=USER, data=GO, dot=Reset()), Rejected, 550, usable=False),
    "rcpt-refused-empty-message-unanswered": Mix(
        replies(rcpt=USER, data=GO, dot=Silence()), Rejected, 550, usable=False, seconds=PATIENCE
    ),
    "rcpt-refused-and-closed": Mix(replies(rcpt=Reply("554 no", close=True)), Rejected, 554, usable=False),
    "rcpt-refused-then-421": Mix(replies(rcpt=LATER, data=BYE), Deferred, 451, usable=False),
    "rcpt-refused-then-lost": Mix(replies(rcpt=USER, data=Close()), Rejected, 550, usable=False),
    "rcpt-refused-then-silence": Mix(replies(rcpt=USER, data=Silence()), Rejected, 550, usable=False, seconds=PATIENCE),
    "rcpt-refused-then-garbage": Mix(replies(rcpt=USER, data=Garbage(b"\xff\r\n")), Rejected, 550, usable=False),
    "data-refused": Mix(replies(data=LATER), Deferred, 451, usable=True),
    "data-refused-permanently": Mix(replies(data=Reply("554 no")), Rejected, 554, usable=True),
    "mail-421": Mix(replies(mail=BYE), ConnectionStale, 421, usable=False),
    "mail-421-without-close": Mix(replies(mail=Reply("421 bye")), ConnectionStale, 421, usable=False),
    "mail-idle": Mix(replies(mail=TIMED_OUT), ConnectionStale, 451, usable=False),
    "rcpt-421": Mix(replies(rcpt=BYE), ConnectionStale, 421, usable=False),
    "data-421": Mix(replies(data=BYE), ConnectionStale, 421, usable=False),
    "rcpt-354": Mix(replies(rcpt=GO), ConnectionStale, 0, usable=False),
    "data-250": Mix(replies(data=OK), ConnectionStale, 0, usable=False),
    "mail-answered-twice": Mix(replies(mail=Garbage(b"250 Ok\r\n250 Ok\r\n")), ConnectionStale, 0, usable=False),
    "two-replies-too-many": Mix(replies(data=Garbage(b"354 go\r\n421 bye\r\n")), ConnectionStale, 0, usable=False),
    "bad-sequence": Mix(replies(data=Reply("503 5.5.1 Bad sequence of commands")), ConnectionStale, 0, usable=False),
    "half-a-reply": Mix(replies(mail=Garbage(b"250-half\r\n")), ConnectionStale, 0, usable=False),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
async def test_the_first_refusal_counts_and_the_connection_stays_in_step(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch, mix: Mix
) -> None:
    monkeypatch.setattr(smtp_connection, "EMPTY_MESSAGE_SECONDS", mix.seconds)
    connection = await proven(smtp, mix.seconds)
    smtp.script = mix.script
    error = await refusal(connection)
    assert (type(error), error.code, connection.is_usable) == (mix.kind, mix.code, mix.usable)
    assert verbs(smtp)[1:4] == GROUP
    if mix.usable:
        await connection.send(ENVELOPE, mail(2))
    smtp.reset_sessions()
    await smtp.wait_for_open_sessions(0)
    assert [one.content for one in smtp.mails if one.content] == [mail(0), *([mail(2)] if mix.usable else [])]


@pytest.mark.parametrize("reply", ["502 no", "451 4.4.2 idle", "421 bye"])
async def test_a_refused_reset_sends_nothing(smtp: ScriptedSmtp, reply: str) -> None:
    connection = await proven(smtp)
    smtp.script = either(first(1, "rcpt", USER), always("rset", Reply(reply)))
    assert type(await refusal(connection)) is Rejected
    assert type(await refusal(connection)) is ConnectionStale
    assert not connection.is_usable
    assert numbers(smtp) == [0]


codes = st.sampled_from([200, 250, 251, 354, 400, 450, 452, 500, 503, 550, 554, 199, 777])


@given(st.lists(st.tuples(codes, codes, codes, st.sampled_from([250, 450, 554])), min_size=1, max_size=4))
@settings(max_examples=60)
async def test_no_mail_is_sent_into_a_refused_transaction(mixes: list[tuple[int, int, int, int]]) -> None:
    """Each mix of codes, also after each other on one connection as long as it is usable."""
    async with scripted_smtp.running() as smtp:
        opening = connector(smtp)
        for number, (to_mail, to_rcpt, to_data, to_dot) in enumerate(mixes):
            smtp.script = lambda _: None
            await (await opening.connect()).send(ENVELOPE, mail(100 + number))  # the server is not on trial
            connection = await opening.connect()
            smtp.script = replies(
                mail=Reply(f"{to_mail} x"),
                rcpt=Reply(f"{to_rcpt} x"),
                data=Reply(f"{to_data} x"),
                dot=Reply(f"{to_dot} x"),
            )
            is_open = to_mail // 100 == to_rcpt // 100 == 2 and to_data // 100 == 3
            outcome = (await asyncio.gather(connection.send(ENVELOPE, mail(number)), return_exceptions=True))[0]
            assert (outcome is None) == (is_open and to_dot == 250)
            assert any(mail(number) == one.content for one in smtp.mails) == (outcome is None)
            if isinstance(outcome, Rejected | Deferred) and outcome.code:
                refused = [code for code in (to_mail, to_rcpt, to_data, to_dot) if code // 100 in {4, 5}]
                assert outcome.code == refused[0]
            if connection.is_usable:
                smtp.script = lambda _: None
                await connection.send(ENVELOPE, mail(200 + number))
                assert smtp.mails[-1].content == mail(200 + number)


# Time


async def test_a_stalled_group_ends_at_the_time_limit_of_the_transaction(smtp: ScriptedSmtp) -> None:
    connection = await proven(smtp, PATIENCE)
    smtp.script = always("rcpt", Silence())
    started = time.monotonic()
    error = await refusal(connection)
    assert type(error) is ConnectionStale
    assert f"no reply within {PATIENCE} s" in error.text
    assert time.monotonic() - started >= PATIENCE * 0.9


@pytest.mark.parametrize("stage", ["rcpt", "dot"])
async def test_a_send_cancelled_while_a_reply_is_awaited_drops_the_connection(smtp: ScriptedSmtp, stage: Stage) -> None:
    """At the dot: of the empty message after a refusal."""
    reached = asyncio.Event()

    def stall(moment: Moment) -> Action | None:
        if moment.stage == stage:
            reached.set()
        return Silence() if moment.stage == stage else None

    connection = await proven(smtp, smtp_timeout_seconds=30)
    smtp.script = either(stall, replies(rcpt=USER, data=GO))
    task = asyncio.create_task(connection.send(ENVELOPE, MAIL))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not connection.is_usable


# Servers that offer it and cannot do it


@pytest.fixture(name="brief")
def brief_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short trial."""
    monkeypatch.setattr(pipelining, "TRIAL_SECONDS", PATIENCE)


@asynccontextmanager
async def sender(port: int) -> AsyncIterator[Sender]:
    """Delivery to this port."""
    settings = RelaySettings(smtp_port=port, smtp_timeout_seconds=30)
    limits = PoolLimits(4, messages=1000, idle_seconds=5, age_seconds=300)
    async with Pool(Connector(settings).connect, limits, temporary=Deferred) as pool:
        yield Sender(pool, 0)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("habit", misled_smtp.HABITS)
async def test_no_mail_is_lost_at_a_server_that_cannot_do_it(habit: Habit) -> None:
    async with misled_smtp.running(habit) as server:
        async with sender(server.port) as sending:
            await sending.send_all(range(4))
            tried = server.pipelined
            await sending.send_all(range(4, 20), at_once=4)
        assert len(server.mails) == len(set(server.mails)) == 20
        assert 1 <= tried == server.pipelined <= 4


@pytest.mark.usefixtures("brief")
async def test_after_a_pause_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelining, "PAUSE_SECONDS", 0.0)
    async with misled_smtp.running("closes") as server:
        settings = RelaySettings(smtp_port=server.port, smtp_timeout_seconds=5)
        opening = Connector(settings)
        for _ in range(3):
            await refusal(await opening.connect())
        assert server.pipelined == 3


async def test_a_slow_server_has_the_time_of_the_trial_for_each_reply(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tarpits and scanners are slow (testssl/testssl.sh#731): 3 replies of 0.4 s are more than the time."""
    monkeypatch.setattr(pipelining, "TRIAL_SECONDS", 1.0)
    smtp.script = either(*(always(stage, Delay(0.4)) for stage in BEFORE_THE_DOT))
    await (await connector(smtp, smtp_timeout_seconds=30).connect()).send(ENVELOPE, mail(0))
    assert verbs(smtp)[1:4] == GROUP


async def test_a_server_that_stops_in_the_middle_later_is_found_out_too(smtp: ScriptedSmtp) -> None:
    opening = connector(smtp, smtp_timeout_seconds=PATIENCE)
    await (await opening.connect()).send(ENVELOPE, mail(0))
    smtp.script = first(1, "rcpt", Silence())
    assert "no reply" in (await refusal(await opening.connect())).text
    smtp.script = always("mail", USER)
    await refusal(await opening.connect())
    assert verbs(smtp, 3) == ["EHLO", "MAIL"]


@pytest.mark.parametrize("action", [Reply("503 <alice@example.com>?"), Garbage(b"blocked: alice@example.com\r\n")])
async def test_the_pause_is_logged_without_addresses(
    smtp: ScriptedSmtp, caplog: pytest.LogCaptureFixture, action: Action
) -> None:
    caplog.set_level("INFO")
    smtp.script = always("mail", action)
    await refusal(await connector(smtp).connect())
    [line] = [record for record in caplog.records if record.message == "smtp.pipelining_paused"]
    assert "a***@example.com" in line.error  # type: ignore[attr-defined]  # of `extra`

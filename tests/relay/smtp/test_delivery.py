# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery to a server that throttles, stalls and closes connections: retries and final failures."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from relay.errors import Deferred, DeliveryError, Rejected, Uncertain
from relay.smtp import throttle
from relay.smtp.delivery import DisabledDelivery
from tests.relay.inputs import ENVELOPE, mail, numbers
from tests.relay.smtp.senders import ACCOUNT, THROTTLED, TRANSACTION, Clock, count, now, sending
from tests.relay.smtp.sessions import LENIENCE
from tests.stack import scripted_smtp
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
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage


# Failures that are retried


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_a_throttled_mail_is_sent_within_the_time_of_its_request(
    smtp: ScriptedSmtp, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "SERVER_SECONDS", 0.1)
    monkeypatch.setattr(throttle, "LEAST_FIRST_RATE", 50)
    smtp.script = first(2, stage, THROTTLED)
    async with sending(smtp) as sender:
        await sender.send(1)
    assert numbers(smtp) == [1]
    assert count(smtp, "MAIL") == 3


async def test_a_mail_is_sent_though_the_server_refuses_the_idle_session(smtp: ScriptedSmtp) -> None:
    smtp.script = after(1, "mail", Reply("451 4.4.2 Timeout waiting for data from client.", close=True))
    async with sending(smtp) as sender:
        await sender.send(1)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]
    assert smtp.sessions == 2


async def test_a_mail_is_sent_though_the_server_closed_the_idle_session(smtp: ScriptedSmtp) -> None:
    smtp.options.idle_timeout = 0.05
    async with sending(smtp) as sender:
        await sender.send(1)
        await smtp.wait_for_open_sessions(0)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]


async def test_a_mail_limit_per_session_fails_no_mail(smtp: ScriptedSmtp) -> None:
    smtp.script = after(10, "mail", Reply("421 4.3.2 Maximum message count per session reached.", close=True))
    async with sending(smtp, connections=16) as sender:
        await sender.send_all(range(200), at_once=16)
    assert numbers(smtp) == list(range(200))


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_421_at_any_stage_of_a_kept_session_fails_no_mail(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = after(5, stage, Reply("421 4.3.2 bye"))
    async with sending(smtp) as sender:
        await sender.send_all(range(40))
    assert numbers(smtp) == list(range(40))


async def test_with_our_own_mail_limit_the_connection_limit_still_holds(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, connections=3, messages=7) as sender:
        await sender.send_all(range(100))
    assert numbers(smtp) == list(range(100))
    assert smtp.max_open_sessions <= 3
    assert smtp.sessions >= 100 // 7


@pytest.mark.parametrize("stage", ["quit", "rset", "noop"])
async def test_a_session_that_is_lost_after_its_mail_fails_no_mail(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = either(first(1, "rcpt", Reply("550 no such user")), always(stage, Reset()))
    async with sending(smtp) as sender:
        with pytest.raises(Rejected):
            await sender.send(0)
        await sender.send(1)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]


async def test_two_failed_starttls_in_a_row_are_retried(trusted: Certificates, smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(tls=trusted.server_context(), username="u", password="p")

    def script(moment: Moment) -> Action | None:
        answers: dict[int, Action] = {1: Reply("454 TLS not available"), 2: Garbage(b"220 go\r\nnot TLS at all\r\n")}
        return answers.get(moment.session) if moment.stage == "starttls" else None

    smtp.script = script
    async with sending(smtp, connections=1, **ACCOUNT) as sender:
        await sender.send(1)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]
    assert smtp.sessions == 3


async def test_a_temporary_failure_of_auth_is_retried(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="p")
    smtp.script = first(2, "auth", Reply("454 4.7.0 Temporary authentication failure"))
    async with sending(smtp, **ACCOUNT) as sender:
        await sender.send_all(range(5))
    assert numbers(smtp) == list(range(5))


@pytest.mark.parametrize("close", [True, False])
async def test_a_421_to_all_idle_sessions_fails_no_mail(smtp: ScriptedSmtp, *, close: bool) -> None:
    async with sending(smtp, connections=8) as sender:
        smtp.options.reply_delay = 0.005
        await sender.send_all(range(50))
        assert smtp.unsolicited("421 4.4.2 we are closing", close=close) == 8
        await sender.send_all(range(50, 100))
    assert numbers(smtp) == list(range(100))


async def test_a_reset_of_all_sessions_between_mails_fails_no_mail(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, connections=8) as sender:
        for start in range(0, 60, 12):
            await sender.send_all(range(start, start + 12))
            smtp.reset_sessions()
    assert numbers(smtp) == list(range(60))


async def test_a_restart_of_the_server_fails_no_mail(smtp: ScriptedSmtp) -> None:
    async with sending(smtp) as sender:
        await sender.send_all(range(5))
        await smtp.stop()
        waiting = asyncio.gather(*(sender.send(number) for number in range(5, 10)))
        await until(lambda: repr(sender.pool).startswith("<Pool 0 leased, 0 idle, 0 opening"))
        await smtp.start()
        await waiting
    assert numbers(smtp) == list(range(10))


async def test_a_stalled_session_delays_no_other_mail(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "dot", Silence())
    async with sending(smtp, connections=2, smtp_timeout_seconds=3) as sender:
        stalled = asyncio.create_task(sender.send(0))
        await until(lambda: count(smtp, "DATA") == 1)
        await sender.send_all(range(1, 50))
        assert not stalled.done()
        with pytest.raises(Uncertain):
            await stalled
    assert numbers(smtp) == list(range(1, 50))


async def test_a_stall_before_the_dot_is_retried_on_another_session(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "rcpt", Silence())
    async with sending(smtp, smtp_timeout_seconds=2) as sender:
        await sender.send(1)
    assert numbers(smtp) == [1]


# Failures that are final


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_a_permanent_refusal_is_not_retried(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, Reply("554 Transaction failed: Expected ';', got null"))
    async with sending(smtp) as sender:
        with pytest.raises(Rejected) as failure:
            await sender.send(1)
    assert failure.value.code == 554
    assert failure.value.text == "Transaction failed: Expected ';', got null"
    assert count(smtp, "MAIL") == 1


@pytest.mark.parametrize("action", [STORE_THEN_CLOSE, Store(Reset()), Store(Silence()), Store(Garbage(b"what\r\n"))])
async def test_a_mail_of_unknown_outcome_is_never_sent_again(smtp: ScriptedSmtp, action: Action) -> None:
    smtp.script = per_session(1, "dot", action)
    async with sending(smtp, smtp_timeout_seconds=0.6) as sender:
        with pytest.raises(Uncertain):
            await sender.send(1)
        assert repr(sender.pool) == "<Pool 0 leased, 0 idle, 0 opening, 1 closing, 0 waiting>"
    assert numbers(smtp) == [1]
    assert count(smtp, "DATA") == 1


async def test_retries_have_growing_pauses_and_end_before_the_deadline(smtp: ScriptedSmtp) -> None:
    smtp.script = clock = Clock("mail", Reply("451 4.3.0 try again"))
    async with sending(smtp) as sender:
        deadline = now() + 1.0
        with pytest.raises(Deferred) as failure:
            await sender.send(1, within=1.0)
        assert failure.value.code == 451
        assert now() < deadline + 5
    assert 2 <= len(clock.times) < 20
    assert max(clock.times) < deadline


async def test_after_a_failure_of_many_mails_their_retries_are_spread(smtp: ScriptedSmtp) -> None:
    smtp.script = clock = Clock("mail", THROTTLED)
    async with sending(smtp, connections=20) as sender:
        await sender.try_all(range(20), within=0.15)
    attempts = [time - clock.times[0] for time in clock.times]
    assert len(attempts) < 60, "the server is not flooded"


@pytest.mark.parametrize("stage", ["mail", "dot"])
async def test_no_attempt_starts_after_the_deadline(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, Delay(0.2, Reply("451 4.3.0 try again")))
    async with sending(smtp) as sender:
        with pytest.raises(Deferred, match="try again"):
            await sender.send(1, within=0.1)
    assert count(smtp, "MAIL") == 1


@pytest.mark.parametrize("rate", [0, 1000])
async def test_after_the_deadline_not_even_an_idle_connection_is_used(smtp: ScriptedSmtp, rate: float) -> None:
    async with sending(smtp, rate=rate) as sender:
        await sender.send(1)
        with pytest.raises(Deferred, match="the request's time was over"):
            await sender.send(2, within=0)
    assert numbers(smtp) == [1]


async def test_a_mail_waits_for_a_connection_until_its_deadline(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, connections=1) as sender:
        held = await sender.pool.acquire()
        with pytest.raises(Deferred, match="no SMTP connection"):
            async with asyncio.timeout(LENIENCE):
                await sender.send(1, within=0.1)
        sender.pool.release(held)
        await sender.send(2)
    assert numbers(smtp) == [2]


async def test_the_error_differs_between_no_accepted_and_no_free_connection(smtp: ScriptedSmtp) -> None:
    smtp.script = always("greeting", Silence())
    async with sending(smtp) as sender:
        with pytest.raises(Deferred, match="the server did not accept a connection"):
            await sender.send(1, within=0.1)


async def test_with_an_unreachable_server_each_mail_fails_in_its_time(smtp: ScriptedSmtp) -> None:
    await smtp.stop()
    async with sending(smtp) as sender:
        started = now()
        outcomes = await sender.try_all(range(50), within=0.5)
        assert now() - started < 0.5 + LENIENCE
        assert sender.pool.unopened >= 2
    assert all(isinstance(outcome, Deferred) for outcome in outcomes)


async def test_a_cancelled_delivery_returns_its_connection(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "mail", Silence())
    async with sending(smtp, connections=1) as sender:
        stalled, waiting = asyncio.create_task(sender.send(1)), asyncio.create_task(sender.send(2))
        await until(lambda: count(smtp, "MAIL") == 1)
        waiting.cancel()
        stalled.cancel()
        await asyncio.wait([stalled, waiting])
        await sender.send(3)
        assert repr(sender.pool) == "<Pool 0 leased, 1 idle, 0 opening, 0 closing, 0 waiting>"
    assert numbers(smtp) == [3]


# Random faults


@pytest.mark.parametrize("seed", range(3))
async def test_with_random_faults_each_mail_is_sent_once_or_fails(smtp: ScriptedSmtp, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule of faults
    faults: list[Action] = [
        THROTTLED,
        Reply("421 4.3.2 bye"),
        Reply("421 4.3.2 bye", close=True),
        Reply("451 4.3.0 later"),
        Reply("550 5.1.1 no"),
        Close(),
        Reset(),
        Garbage(b"\xff\r\n"),
        Delay(0.02),
        Silence(),
    ]

    def script(moment: Moment) -> Action | None:
        if chance.random() > 0.06:
            return None
        fault = chance.choice(faults)
        if moment.stage == "body" and isinstance(fault, Reply):  # and accepts the mail after it: no client can know
            return None
        return Store(fault) if moment.stage == "dot" and not isinstance(fault, Reply) else fault

    smtp.script = script
    async with sending(smtp, connections=8, messages=20, smtp_timeout_seconds=0.5) as sender:
        outcomes = await sender.try_all(range(150), within=2.0)
    stored = numbers(smtp)
    assert len(stored) == len(set(stored)), "none twice"
    for number, outcome in enumerate(outcomes):
        match outcome:
            case None:
                assert number in stored
            case Uncertain():
                pass
            case _:
                assert isinstance(outcome, DeliveryError)
                assert number not in stored
    assert outcomes.count(None) > 10, "most are sent, on a machine that is not busy"


async def test_with_sending_disabled_every_mail_counts_as_delivered() -> None:
    await DisabledDelivery()(ENVELOPE, mail(1), deadline=0, group="")

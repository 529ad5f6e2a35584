# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery over a pool of real connections to a server that throttles, stalls, hangs up and forgets."""

from __future__ import annotations

import asyncio
import random
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from relay.errors import Barred, Deferred, DeliveryError, Rejected, Uncertain
from relay.smtp import delivery
from relay.smtp.delivery import Delivery, Disabled
from relay.smtp.pool import OPENINGS_UNTIL_ONE_SUCCEEDS, Limits, Pool
from tests.relay.inputs import ENVELOPE, connector, mail, numbers
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
    from collections.abc import AsyncIterator, Iterable

    from relay.smtp.connection import SmtpConnection
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage

ACCOUNT: dict[str, Any] = {"smtp_username": "u", "smtp_password": "p"}
THROTTLED = Reply("454 Throttling failure: Maximum sending rate exceeded.")
QUOTA = Reply("454 Throttling failure: Daily message quota exceeded.")
TRANSACTION: tuple[Stage, ...] = ("mail", "rcpt", "data", "dot")


class Sender:
    """Delivery with its pool."""

    def __init__(self, pool: Pool[SmtpConnection], rate: float) -> None:
        self.pool = pool
        self.deliver = Delivery(pool, max_send_rate=rate, server=("localhost", 25))

    async def send(self, number: int, *, within: float = 8.0) -> None:
        """Deliver one mail in its time."""
        await self.deliver(ENVELOPE, mail(number), deadline=now() + within)

    async def try_all(self, mails: Iterable[int], *, within: float = 8.0) -> list[BaseException | None]:
        """Deliver many at once; what became of each."""
        return await asyncio.gather(*(self.send(number, within=within) for number in mails), return_exceptions=True)

    async def send_all(self, mails: Iterable[int], *, at_once: int = 1000) -> None:
        """Deliver many, none of which fails."""
        places = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with places:
                await self.send(number)

        await asyncio.gather(*map(one, mails))


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def sending(
    smtp: ScriptedSmtp, *, connections: int = 4, messages: int = 1000, rate: float = 0, **changes: Any
) -> AsyncIterator[Sender]:
    """A sender to this server."""
    limits = Limits(connections, messages=messages, idle_seconds=5, age_seconds=300)
    async with Pool(connector(smtp, **changes).connect, limits, for_all=Barred) as pool:
        yield Sender(pool, rate)


def count(smtp: ScriptedSmtp, verb: str) -> int:
    """How often any session heard a command."""
    return sum(line.split()[0] == verb for commands in smtp.commands for line in commands)


class Clock:
    """A script that notes when a stage is reached."""

    def __init__(self, stage: Stage, action: Action | None = None) -> None:
        self.times: list[float] = []
        self._stage = stage
        self._action = action

    def __call__(self, moment: Moment) -> Action | None:
        """Note the time and say what is to be done."""
        if moment.stage != self._stage:
            return None
        self.times.append(now())
        return self._action


# What passes


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_f30_throttling_is_ridden_out_inside_the_requests_time(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = first(2, stage, THROTTLED)
    async with sending(smtp) as sender:
        await sender.send(1)
    assert numbers(smtp) == [1]
    assert count(smtp, "MAIL") == 3


async def test_f32_a_session_that_ended_for_idleness_costs_nothing(smtp: ScriptedSmtp) -> None:
    smtp.script = after(1, "mail", Reply("451 4.4.2 Timeout waiting for data from client.", close=True))
    async with sending(smtp) as sender:
        await sender.send(1)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]
    assert smtp.sessions == 2


async def test_f32_a_session_that_ends_itself_while_idle_costs_nothing(smtp: ScriptedSmtp) -> None:
    smtp.options.idle_timeout = 0.05
    async with sending(smtp) as sender:
        await sender.send(1)
        await smtp.wait_for_open_sessions(0)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]


async def test_f34_a_mail_limit_per_session_fails_none_of_200(smtp: ScriptedSmtp) -> None:
    smtp.script = after(10, "mail", Reply("421 4.3.2 Maximum message count per session reached.", close=True))
    async with sending(smtp, connections=16) as sender:
        await sender.send_all(range(200), at_once=16)
    assert numbers(smtp) == list(range(200))


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_421_at_any_point_of_a_kept_session_fails_none(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = after(5, stage, Reply("421 4.3.2 bye"))
    async with sending(smtp) as sender:
        await sender.send_all(range(40))
    assert numbers(smtp) == list(range(40))


async def test_our_own_limit_per_session_never_opens_more_sessions_than_allowed(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, connections=3, messages=7) as sender:
        await sender.send_all(range(100))
    assert numbers(smtp) == list(range(100))
    assert smtp.max_open_sessions <= 3
    assert smtp.sessions >= 100 // 7


@pytest.mark.parametrize("stage", ["quit", "rset", "noop"])
async def test_f38_a_session_that_dies_after_the_mail_changes_nothing(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = either(first(1, "rcpt", Reply("550 no such user")), always(stage, Reset()))
    async with sending(smtp) as sender:
        with pytest.raises(Rejected):
            await sender.send(0)
        await sender.send(1)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]


async def test_f40_454_then_a_garbled_handshake_then_health(trusted: Certificates, smtp: ScriptedSmtp) -> None:
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


async def test_a_passing_failure_of_auth_is_ridden_out(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="p")
    smtp.script = first(2, "auth", Reply("454 4.7.0 Temporary authentication failure"))
    async with sending(smtp, **ACCOUNT) as sender:
        await sender.send_all(range(5))
    assert numbers(smtp) == list(range(5))


@pytest.mark.parametrize("close", [True, False])
async def test_an_unasked_farewell_to_all_idle_sessions_fails_none_of_the_next_mails(
    smtp: ScriptedSmtp, *, close: bool
) -> None:
    async with sending(smtp, connections=8) as sender:
        smtp.options.reply_delay = 0.005
        await sender.send_all(range(50))
        assert smtp.unsolicited("421 4.4.2 we are closing", close=close) == 8
        await sender.send_all(range(50, 100))
    assert numbers(smtp) == list(range(100))


async def test_a_reset_of_all_sessions_between_mails_fails_none(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, connections=8) as sender:
        for start in range(0, 60, 12):
            await sender.send_all(range(start, start + 12))
            smtp.reset_sessions()
    assert numbers(smtp) == list(range(60))


async def test_a_restart_of_the_server_is_ridden_out(smtp: ScriptedSmtp) -> None:
    async with sending(smtp) as sender:
        await sender.send_all(range(5))
        await smtp.stop()
        waiting = asyncio.gather(*(sender.send(number) for number in range(5, 10)))
        await until(lambda: repr(sender.pool).startswith("<Pool 0 leased, 0 idle, 0 opening"))
        await smtp.start()
        await waiting
    assert numbers(smtp) == list(range(10))


async def test_a_stalled_dialogue_delays_nobody_else(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "dot", Silence())
    async with sending(smtp, connections=2) as sender:
        stalled = asyncio.create_task(sender.send(0))
        await until(lambda: count(smtp, "DATA") == 1)
        await sender.send_all(range(1, 50))
        assert not stalled.done()
        with pytest.raises(Uncertain):
            await stalled
    assert numbers(smtp) == list(range(1, 50))


async def test_a_stall_before_the_dot_is_tried_again_elsewhere(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "rcpt", Silence())
    async with sending(smtp, smtp_timeout_seconds=0.2) as sender:
        await sender.send(1)
    assert numbers(smtp) == [1]


# What does not


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_f67_what_is_permanent_is_final_at_once(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, Reply("554 Transaction failed: Configuration set x does not exist."))
    async with sending(smtp) as sender:
        with pytest.raises(Rejected) as failure:
            await sender.send(1)
    assert failure.value.code == 554
    assert failure.value.text == "Transaction failed: Configuration set x does not exist."
    assert count(smtp, "MAIL") == 1


@pytest.mark.parametrize("action", [STORE_THEN_CLOSE, Store(Reset()), Store(Silence()), Store(Garbage(b"what\r\n"))])
async def test_f36_what_nobody_knows_is_never_sent_again(smtp: ScriptedSmtp, action: Action) -> None:
    smtp.script = per_session(1, "dot", action)
    async with sending(smtp, smtp_timeout_seconds=0.3) as sender:
        with pytest.raises(Uncertain):
            await sender.send(1)
        assert repr(sender.pool) == "<Pool 0 leased, 0 idle, 0 opening, 1 closing, 0 waiting>"
    assert numbers(smtp) == [1]
    assert count(smtp, "DATA") == 1


async def test_retries_come_with_growing_pauses_and_end_before_the_deadline(smtp: ScriptedSmtp) -> None:
    smtp.script = clock = Clock("mail", Reply("451 4.3.0 try again"))
    async with sending(smtp) as sender:
        deadline = now() + 1.0
        with pytest.raises(Deferred) as failure:
            await sender.send(1, within=1.0)
        assert failure.value.code == 451
        assert now() < deadline + 0.1
    assert 2 <= len(clock.times) < 20
    assert max(clock.times) < deadline


async def test_after_a_failure_there_is_a_pause_and_all_do_not_come_back_at_once(smtp: ScriptedSmtp) -> None:
    smtp.script = clock = Clock("mail", THROTTLED)
    async with sending(smtp, connections=20) as sender:
        await sender.try_all(range(20), within=0.15)
    attempts = [time - clock.times[0] for time in clock.times]
    assert len(attempts) < 60, "nobody hammers"


@pytest.mark.parametrize("stage", ["mail", "dot"])
async def test_no_attempt_starts_after_the_deadline(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, Delay(0.2, Reply("451 4.3.0 try again")))
    async with sending(smtp) as sender:
        with pytest.raises(Deferred, match="try again"):
            await sender.send(1, within=0.1)
    assert count(smtp, "MAIL") == 1


@pytest.mark.parametrize("rate", [0, 1000])
async def test_after_the_deadline_even_an_idle_connection_is_left_alone(smtp: ScriptedSmtp, rate: float) -> None:
    async with sending(smtp, rate=rate) as sender:
        await sender.send(1)
        with pytest.raises(Deferred, match="the request's time was over"):
            await sender.send(2, within=0)
    assert numbers(smtp) == [1]


async def test_a_mail_waits_for_a_connection_until_its_deadline_and_no_longer(smtp: ScriptedSmtp) -> None:
    smtp.script = first(1, "mail", Delay(0.5))
    async with sending(smtp, connections=1) as sender:
        slow = asyncio.create_task(sender.send(1))
        await until(lambda: count(smtp, "MAIL") == 1)
        started = now()
        with pytest.raises(Deferred, match="no SMTP connection"):
            await sender.send(2, within=0.1)
        assert now() - started < 0.4
        await slow
        await sender.send(3)
    assert numbers(smtp) == [1, 3]


async def test_a_server_that_takes_no_connection_is_not_called_one_without_a_free_one(smtp: ScriptedSmtp) -> None:
    smtp.script = always("greeting", Silence())
    async with sending(smtp) as sender:
        with pytest.raises(Deferred, match="the server did not accept a connection"):
            await sender.send(1, within=0.1)


async def test_a_server_that_is_not_there_fails_each_request_in_its_time(smtp: ScriptedSmtp) -> None:
    await smtp.stop()
    async with sending(smtp) as sender:
        started = now()
        outcomes = await sender.try_all(range(50), within=0.5)
        assert now() - started < 1.5
        assert sender.pool.unopened >= 2
    assert all(isinstance(outcome, Deferred) for outcome in outcomes)


async def test_a_delivery_that_is_cancelled_gives_its_connection_back(smtp: ScriptedSmtp) -> None:
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


# The account


async def test_a_refused_login_is_tried_for_all_not_for_each(
    smtp: ScriptedSmtp, caplog: pytest.LogCaptureFixture
) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="other")
    async with sending(smtp, connections=32, **ACCOUNT) as sender:
        outcomes = await sender.try_all(range(50))
        outcomes += await sender.try_all(range(50))
    assert all(type(outcome) is Barred for outcome in outcomes)
    assert 1 <= count(smtp, "AUTH") <= OPENINGS_UNTIL_ONE_SUCCEEDS
    [line] = [record for record in caplog.records if record.message == "smtp.barred"]
    assert line.__dict__["code"] == 535


async def test_a_login_refused_while_others_are_logged_in_is_not_tried_for_each(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="p")
    smtp.script = first(1, "dot", Delay(0.3))
    async with sending(smtp, connections=8, **ACCOUNT) as sender:
        slow = asyncio.create_task(sender.send(0))
        await until(lambda: count(smtp, "DATA") == 1)
        smtp.options.password = "other"  # noqa: S105 - of a server that lives for a second
        outcomes = await sender.try_all(range(1, 50))
        assert all(type(outcome) is Barred for outcome in outcomes)
        await slow
    assert count(smtp, "AUTH") <= 8


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_a_used_up_quota_stops_those_who_wait_too(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, QUOTA)
    async with sending(smtp, connections=2) as sender:
        outcomes = await sender.try_all(range(30))
        outcomes += await sender.try_all(range(30))
    assert all(type(outcome) is Barred for outcome in outcomes)
    assert count(smtp, "MAIL") <= 2
    assert +sender.deliver.transactions == {("barred", "4xx"): count(smtp, "MAIL")}


async def test_those_who_wait_for_their_turn_under_a_rate_are_stopped_too(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="other")
    async with sending(smtp, rate=100, **ACCOUNT) as sender:
        outcomes = await sender.try_all(range(20))
    assert all(type(outcome) is Barred for outcome in outcomes)
    assert count(smtp, "AUTH") <= OPENINGS_UNTIL_ONE_SUCCEEDS


async def test_the_pause_ends_in_time_however_many_ask_meanwhile(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BARRED_SECONDS", 0.2)
    smtp.script = first(1, "mail", QUOTA)
    async with sending(smtp) as sender:
        with pytest.raises(Barred):
            await sender.send(0)
        barred_at = now()
        async with asyncio.timeout(5):
            while isinstance((await sender.try_all([1]))[0], Barred):
                await asyncio.sleep(0.01)
        assert now() - barred_at >= 0.19
    assert numbers(smtp) == [1]


async def test_each_request_gets_an_error_of_its_own_that_holds_nothing_of_the_others(smtp: ScriptedSmtp) -> None:
    smtp.script = always("mail", QUOTA)
    async with sending(smtp) as sender:
        await sender.try_all([0])
        errors = await sender.try_all(range(100))
    assert len({id(error) for error in errors}) == 100
    assert max(len(traceback.extract_tb(error.__traceback__)) for error in errors if error) < 10


# The rate


async def test_a_rate_smooths_a_burst(smtp: ScriptedSmtp) -> None:
    smtp.script = clock = Clock("mail")
    async with sending(smtp, rate=50) as sender:
        await sender.send_all(range(20))
    assert numbers(smtp) == list(range(20))
    assert clock.times[-1] - clock.times[0] >= 19 / 50 * 0.9
    for start in range(15):
        assert clock.times[start + 5] - clock.times[start] > 0.04, "never five at once"


async def test_under_a_rate_what_is_not_sent_in_its_time_is_not_sent_at_all(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, rate=10) as sender:
        outcomes = await sender.try_all(range(20), within=0.5)
        await asyncio.sleep(0.15)
    sent = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert 1 <= len(sent) <= 7
    assert numbers(smtp) == sent
    unsent = [outcome for outcome in outcomes if outcome is not None]
    assert {type(outcome) for outcome in unsent} == {Deferred}
    assert {str(outcome) for outcome in unsent} == {"held back by SES_MAX_SEND_RATE for longer than the request's time"}


# Whatever happens


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_a_mail_is_sent_once_or_its_failure_is_told(smtp: ScriptedSmtp, seed: int) -> None:
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
    assert outcomes.count(None) > 100


async def test_disabled_delivers_nothing_and_complains_about_nothing() -> None:
    await Disabled()(ENVELOPE, mail(1), deadline=0)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery when the server refuses the account, and under a send rate."""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from relay.errors import AccountRefused, Deferred, HeldBack
from relay.smtp import delivery
from relay.smtp.pace import AT_ONCE_AT_FIRST
from tests.relay.inputs import numbers
from tests.relay.smtp.senders import ACCOUNT, QUOTA, TRANSACTION, Clock, count, now, sending
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import Reply, Silence, always, first
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Stage


# The time of a request


@pytest.mark.parametrize("rate", [0, 1000])
async def test_no_attempt_begins_late_although_a_connection_came_free_in_time(smtp: ScriptedSmtp, rate: float) -> None:
    async with sending(smtp, connections=1, rate=rate) as sender:
        held = await sender.pool.acquire()
        waiting = asyncio.create_task(sender.send(1, within=0.3))
        await until(lambda: sender.pool.state().waiting == 1)

        asyncio.get_running_loop().call_soon(time.sleep, 0.5)  # a busy machine: the mail goes on after its time
        sender.pool.release(held)
        with pytest.raises(Deferred, match="within the request's time"):
            await waiting
        assert count(smtp, "MAIL") == 0
        assert sender.pool.state().idle == 1, "the connection is free again"


async def test_a_retry_that_comes_too_late_fails_with_the_reply_of_the_server(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    smtp.script = always("rcpt", Reply("450 4.2.0 try later"))
    loop = asyncio.get_running_loop()

    def sleep_too_long(_state: RetryCallState) -> float:
        loop.call_later(0.05, time.sleep, 0.5)
        return 0.1

    monkeypatch.setattr(delivery, "_backoff", sleep_too_long)
    async with sending(smtp) as sender:
        with pytest.raises(Deferred, match="450") as failed:
            await sender.send(1, within=0.4)
    assert (failed.value.code, count(smtp, "MAIL")) == (450, 1)


# The account


async def test_a_refused_login_is_not_tried_for_each_mail(smtp: ScriptedSmtp, caplog: pytest.LogCaptureFixture) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="other")
    async with sending(smtp, connections=32, **ACCOUNT) as sender:
        outcomes = await sender.try_all(range(50))
        outcomes += await sender.try_all(range(50))
    assert all(type(outcome) is AccountRefused for outcome in outcomes)
    assert 1 <= count(smtp, "AUTH") <= AT_ONCE_AT_FIRST
    [line] = [record for record in caplog.records if record.message == "smtp.barred"]
    assert line.__dict__["code"] == 535


async def test_a_login_refused_beside_open_connections_is_not_tried_for_each_mail(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="p")
    smtp.script = first(1, "dot", Silence())
    async with sending(smtp, connections=8, **ACCOUNT) as sender:
        slow = asyncio.create_task(sender.send(0))
        await until(lambda: count(smtp, "DATA") == 1)
        smtp.options.password = "other"  # noqa: S105 - of a server that lives for a second
        outcomes = await sender.try_all(range(1, 50))
        assert all(type(outcome) is AccountRefused for outcome in outcomes)
        assert not slow.done()
        slow.cancel()
    assert count(smtp, "AUTH") <= 8


@pytest.mark.parametrize("stage", TRANSACTION)
async def test_a_used_up_quota_refuses_the_waiting_mails_too(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.script = always(stage, QUOTA)
    async with sending(smtp, connections=2) as sender:
        outcomes = await sender.try_all(range(30))
        outcomes += await sender.try_all(range(30))
    assert all(type(outcome) is AccountRefused for outcome in outcomes)
    assert count(smtp, "MAIL") <= 2
    assert +sender.deliver.transactions == {("barred", "4xx"): count(smtp, "MAIL")}


async def test_a_refused_login_refuses_the_mails_that_wait_for_the_rate_too(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="other")
    async with sending(smtp, rate=100, **ACCOUNT) as sender:
        outcomes = await sender.try_all(range(20))
    assert all(type(outcome) is AccountRefused for outcome in outcomes)
    assert count(smtp, "AUTH") <= AT_ONCE_AT_FIRST


async def test_the_circuit_closes_in_time_though_more_mails_come(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CIRCUIT_OPEN_SECONDS", 0.2)
    smtp.script = first(1, "mail", QUOTA)
    async with sending(smtp) as sender:
        with pytest.raises(AccountRefused):
            await sender.send(0)
        opened_at = now()
        async with asyncio.timeout(20):
            while isinstance((await sender.try_all([1]))[0], AccountRefused):
                await asyncio.sleep(0.01)
        assert now() - opened_at >= 0.19
    assert numbers(smtp) == [1]


async def test_each_mail_gets_an_error_of_its_own(smtp: ScriptedSmtp) -> None:
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


async def test_a_mail_that_the_rate_holds_back_past_its_time_is_not_sent(smtp: ScriptedSmtp) -> None:
    async with sending(smtp, rate=10) as sender:
        outcomes = await sender.try_all(range(20), within=0.5)
        await asyncio.sleep(0.15)
    sent = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert 1 <= len(sent) <= 7
    assert numbers(smtp) == sent
    unsent = [outcome for outcome in outcomes if outcome is not None]
    assert {type(outcome) for outcome in unsent} == {HeldBack}
    assert {str(outcome) for outcome in unsent} == {"held back by the send rate for longer than the request's time"}

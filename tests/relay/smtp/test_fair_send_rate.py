# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Sends that wait for the rate: their order, changes of the rate, cancelled ones, and a server that throttles."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from relay.errors import Deferred, HeldBack
from relay.smtp import send_rate, throttle
from relay.smtp.send_rate import SendRate
from tests.relay.inputs import numbers
from tests.relay.smtp.senders import THROTTLED, count, now, sending
from tests.stack.smtp_scripts import Reply, always, first
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tests.stack.scripted_smtp import ScriptedSmtp


async def send(rate: SendRate, group: str) -> str:
    """Wait for the turn and the moment of an email; return its group."""
    async with rate.turn(group):
        await rate.moment(group)
    return group


async def test_groups_go_by_turns() -> None:
    rate, order = SendRate(lambda: 50), list[str]()

    async def note(group: str) -> None:
        order.append(await send(rate, group))

    await asyncio.gather(*(note("a") for _ in range(4)), note("b"), note("c"))
    assert order == ["a", "a", "b", "c", "a", "a"]


async def test_a_group_does_not_wait_for_those_of_another_that_had_their_turns_before() -> None:
    rate, order = SendRate(lambda: 50), list[str]()

    async def note(group: str) -> None:
        order.append(await send(rate, group))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(40):
            tasks.create_task(note("mailing"))
        await until(lambda: len(order) > 2)
        await note("single")
        assert len(order) < 8


async def test_a_rate_that_changes_counts_for_those_that_wait() -> None:
    allowed = [0.001]
    rate = SendRate(lambda: allowed[0])
    await send(rate, "g")
    waiting = asyncio.create_task(send(rate, "g"))
    await until(lambda: rate.waiting == 1)
    allowed[0] = 1000
    rate.change()
    await asyncio.wait_for(waiting, 20)
    allowed[0] = 0
    waiting = asyncio.create_task(send(rate, "g"))
    await until(lambda: rate.waiting == 1)
    allowed[0] = 1000
    rate.change()
    await asyncio.wait_for(waiting, 20)


async def test_a_cancelled_send_takes_no_turn() -> None:
    rate = SendRate(lambda: 0.5)
    await send(rate, "g")
    began = now()
    for _ in range(3):
        cancelled = [asyncio.create_task(send(rate, "g")) for _ in range(3)]
        await until(lambda: rate.waiting > 0)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
    assert rate.waiting == 0
    await send(rate, "g")
    assert now() - began < 3.9, "the next turn begins after 2 s, and the one after it 2 s later"


async def test_emails_that_wait_for_a_connection_wait_for_the_rate_when_the_server_throttles(
    smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(throttle, "SERVER_SECONDS", 0.1)
    monkeypatch.setattr(throttle, "LEAST_FIRST_RATE", 40)
    smtp.script = first(1, "dot", THROTTLED)
    async with sending(smtp, connections=1) as sender:
        began = now()
        await sender.send_all(range(9))
        assert now() - began > 0.1 + 7 / 50
        assert count(smtp, "MAIL") == 10
        assert sender.deliver.send_rate.throttled_rate >= 40
        monkeypatch.setattr(throttle, "ENDED_SECONDS", 0.05)
        smtp.script = first(1, "dot", THROTTLED)
        await sender.send(9)
        await until(lambda: not sender.deliver.send_rate.is_limited)
    assert numbers(smtp) == list(range(10))
    events = [record.message for record in caplog.records if record.name == send_rate.__name__]
    assert events == ["smtp.throttled", "smtp.unthrottled"]


async def test_an_email_that_is_throttled_until_the_end_of_its_time_fails_with_that_reply(smtp: ScriptedSmtp) -> None:
    smtp.script = always("dot", THROTTLED)
    async with sending(smtp) as sender:
        tried, untried = await sender.try_all([1], within=0.3), await sender.try_all([2], within=0.3)
    [failure], [held_back] = tried, untried
    assert type(failure) is not HeldBack
    assert isinstance(failure, Deferred)
    assert failure.code == 454
    assert isinstance(held_back, HeldBack)
    assert "the mail server refuses more" in held_back.text


@pytest.mark.parametrize("text", ["451 4.3.0 try again", "454 4.7.0 Temporary failure", "421 4.3.2 bye"])
async def test_other_temporary_refusals_do_not_lower_the_rate(smtp: ScriptedSmtp, text: str) -> None:
    smtp.script = first(2, "dot", Reply(text))
    async with sending(smtp) as sender:
        await sender.send(1)
        assert not sender.deliver.send_rate.is_limited

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Delivery to a server that refuses before MAIL, does not answer, or admits only some connections."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from relay.errors import Deferred, Rejected
from relay.smtp import throttle
from relay.smtp.pool import REFUSALS_IN_A_ROW
from tests.relay.inputs import numbers
from tests.relay.smtp.senders import ACCOUNT, THROTTLED, count, now, sending
from tests.relay.smtp.sessions import LENIENCE
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import Close, Moment, Reply, Reset, Silence, always, either, first

if TYPE_CHECKING:
    from tests.stack.certificates import Certificates
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Script, Stage

WITHIN = 3.0
HANDFUL = 8


# Refusals before MAIL


REFUSALS: tuple[tuple[Stage, Action, str], ...] = (
    ("auth", Reply("454 4.7.0 Temporary authentication failure"), "454 4.7.0 Temporary authentication failure"),
    ("auth", Reply("421 4.7.0 Too many logins", close=True), "421 4.7.0 Too many logins"),
    ("greeting", Reply("421 4.3.2 Too many connections", close=True), "421 4.3.2 Too many connections"),
    ("greeting", Reply("450 4.3.2 Try again later"), "450 4.3.2 Try again later"),
    ("ehlo", Reply("451 4.3.0 not now"), "451 4.3.0 not now"),
    ("ehlo", Reply("550 5.7.1 not you"), "550 5.7.1 not you"),
    ("starttls", Reply("454 4.7.0 TLS not available"), "454 4.7.0 TLS not available"),
    ("greeting", Close(), "Unexpected EOF"),
    ("greeting", Reset(), ""),
    ("auth", Reset(), ""),
    ("mail", Reply("421 4.3.2 Too many connections", close=True), "421 4.3.2 Too many connections"),
    ("mail", Reset(), ""),
)


async def test_many_mails_try_a_server_that_refuses_a_handful_of_times_and_fail_with_its_reply(
    trusted: Certificates,
) -> None:
    """All cases at the same time: each waits for the end of its mails' time."""
    await asyncio.gather(*(_refused(trusted, *refusal) for refusal in REFUSALS))


async def _refused(trusted: Certificates, stage: Stage, action: Action, text: str) -> None:
    options = scripted_smtp.Options(tls=trusted.server_context(), username="u", password="p")
    async with (
        scripted_smtp.running(always(stage, action), options=options) as smtp,
        sending(smtp, connections=32, **ACCOUNT) as sender,
    ):
        started = now()
        outcomes = await sender.try_all(range(60), within=WITHIN)
        assert now() - started < WITHIN + LENIENCE, (stage, action)
        assert all(type(outcome) is Deferred for outcome in outcomes), (stage, action)
        assert 3 <= smtp.sessions <= (HANDFUL if stage != "mail" else 2 * HANDFUL), (stage, action)
        assert any(text in str(outcome) for outcome in outcomes), (stage, action)


async def test_many_mails_to_a_port_that_refuses_connections_fail_with_that_error(smtp: ScriptedSmtp) -> None:
    await smtp.stop()
    async with sending(smtp, connections=32) as sender:
        outcomes = await sender.try_all(range(60), within=WITHIN)
        assert 3 <= sender.pool.unopened <= HANDFUL
    assert all(type(outcome) is Deferred and f"port {smtp.port}" in outcome.text for outcome in outcomes)


async def test_the_mails_are_sent_soon_after_the_server_admits_logins_again(smtp: ScriptedSmtp) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="p")
    smtp.script = first(5, "auth", Reply("454 4.7.0 Temporary authentication failure"))
    async with sending(smtp, connections=32, **ACCOUNT) as sender:
        await sender.send_all(range(60))
    assert numbers(smtp) == list(range(60))


async def test_a_server_that_admits_few_connections_gets_all_mails_over_them(smtp: ScriptedSmtp) -> None:
    def script(moment: Moment) -> Action | None:
        is_one_too_many = moment.stage == "greeting" and smtp.open_sessions > 3
        return Reply("421 4.3.2 Too many connections", close=True) if is_one_too_many else None

    smtp.script = script
    async with sending(smtp, connections=32) as sender:
        smtp.options.reply_delay = 0.002
        await sender.send_all(range(300))
    assert numbers(smtp) == list(range(300))
    assert smtp.sessions <= 40


# Servers that do not answer


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "auth"])
async def test_two_silent_connections_hold_up_no_mail(smtp: ScriptedSmtp, stage: Stage) -> None:
    smtp.options = scripted_smtp.Options(username="u", password="p")
    smtp.script = first(2, stage, Silence())
    async with sending(smtp, smtp_timeout_seconds=60, **ACCOUNT) as sender:
        started = time.monotonic()
        await sender.send_all(range(40))
        assert time.monotonic() - started < 30
    assert numbers(smtp) == list(range(40))


async def test_a_server_that_never_greets_gets_few_connections(smtp: ScriptedSmtp) -> None:
    smtp.script = always("greeting", Silence())
    async with sending(smtp, connections=32, smtp_timeout_seconds=30) as sender:
        outcomes = await sender.try_all(range(60), within=5.0)
    assert all("did not accept a connection" in str(outcome) for outcome in outcomes)
    assert 3 <= smtp.sessions <= 6


# Refusals of one connection


def screening(stage: Stage) -> Script:
    """A script that refuses every mail of the first two sessions, as postscreen does."""

    def script(moment: Moment) -> Action | None:
        refused = moment.stage == stage and moment.session <= 2
        return Reply("450 4.3.2 Service currently unavailable") if refused else None

    return script


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
@pytest.mark.parametrize("connections", [1, 4])
async def test_a_retry_after_4yz_takes_another_connection(smtp: ScriptedSmtp, stage: Stage, connections: int) -> None:
    def script(moment: Moment) -> Action | None:
        refused = moment.stage == stage and moment.session == 1
        return Reply("450 4.3.2 Service currently unavailable") if refused else None

    smtp.script = script
    async with sending(smtp, connections=connections) as sender:
        await sender.send(1)
        await sender.send(2)
    assert numbers(smtp) == [1, 2]
    assert smtp.sessions == 2
    assert [line.split()[0] for line in smtp.commands[0]].count("MAIL") == 1


async def test_a_burst_is_sent_though_the_first_connections_refuse_everything(smtp: ScriptedSmtp) -> None:
    smtp.script = screening("rcpt")
    async with sending(smtp, connections=8) as sender:
        started = now()
        await sender.send_all(range(50))
        assert now() - started < 4
    assert numbers(smtp) == list(range(50))
    for session in range(2):
        assert [line.split()[0] for line in smtp.commands[session]].count("MAIL") <= REFUSALS_IN_A_ROW


async def test_a_mailing_to_bad_addresses_shares_connections_and_none_has_many_refusals(smtp: ScriptedSmtp) -> None:
    smtp.script = always("rcpt", Reply("550 5.1.1 no such user"))
    async with sending(smtp, connections=1) as sender:
        for number in range(30):
            with pytest.raises(Rejected):
                await sender.send(number)
    assert smtp.sessions == 30 / REFUSALS_IN_A_ROW
    assert all([line.split()[0] for line in commands].count("RCPT") <= REFUSALS_IN_A_ROW for commands in smtp.commands)


async def test_refusals_between_accepted_mails_close_no_connection(smtp: ScriptedSmtp) -> None:
    def script(moment: Moment) -> Action | None:
        calls.append(moment.stage)
        return Reply("550 5.1.1 no such user") if moment.stage == "rcpt" and calls.count("rcpt") % 3 else None

    calls: list[str] = []
    smtp.script = script
    async with sending(smtp) as sender:
        outcomes = [(await sender.try_all([number]))[0] for number in range(30)]
    assert outcomes.count(None) == 10
    assert smtp.sessions == 1


async def test_throttled_mails_stay_on_their_connection(smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "SERVER_SECONDS", 0.1)
    monkeypatch.setattr(throttle, "LEAST_FIRST_RATE", 50)
    smtp.script = either(first(6, "mail", THROTTLED))
    async with sending(smtp) as sender:
        await sender.send(1)
    assert numbers(smtp) == [1]
    assert smtp.sessions == 1, "a login more would not raise the rate of the account"
    assert count(smtp, "MAIL") == 7


async def test_greylisted_mails_do_not_open_a_connection_for_each_attempt(smtp: ScriptedSmtp) -> None:
    smtp.script = always("rcpt", Reply("450 4.7.1 Greylisted"))
    async with sending(smtp, connections=8) as sender:
        outcomes = await sender.try_all(range(8), within=WITHIN)
    assert all(isinstance(outcome, Deferred) and outcome.code == 450 for outcome in outcomes)
    assert smtp.sessions < count(smtp, "RCPT") / 2

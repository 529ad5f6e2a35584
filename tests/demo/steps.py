# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The steps of the demo: start, send, look at a mail, send events, query; each step has its checks."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from shared import contract
from tests.demo import caller, event_checks, events, mail_checks, mails, rows
from tests.demo.check import Check
from tests.demo.mail_checks import ACCEPTED, Answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.demo.caller import Caller
    from tests.demo.events import Notification, Script
    from tests.demo.screen import Screen
    from tests.demo.stack import Stack

SETTLED_SECONDS = 10.0
PUSHED_SECONDS = 2.0
BODY_LINES = 8


async def take(stack: Stack, screen: Screen) -> Mapping[str, str]:
    """Take all steps, or stop where the rest would make no sense; return the email_ids by recipient."""
    await _start(stack, screen)
    async with caller.connected(stack.nats.url) as service:
        await service.subscribe()
        email_ids = await _send(service, screen)
        if screen.failed:
            screen.line("The other steps need these emails and are left out.", "quiet")
            return email_ids
        await _look_at_a_mail(stack, screen, email_ids)
        script = await _send_events(stack, screen, email_ids)
        await _query_status(service, screen, script, email_ids)
        await _query_analytics(service, screen)
        await _look_at_pushes(service, screen, script, email_ids)
        return email_ids


async def stop(stack: Stack, screen: Screen) -> None:
    """Stop both services as an orchestrator does."""
    screen.heading("Stop", "SIGTERM")
    with screen.waiting("stopping …"):
        statuses = await stack.stop_services()
    screen.check(Check("both services ended with exit status 0", (0, 0), statuses))


async def _start(stack: Stack, screen: Screen) -> None:
    screen.heading("Start")
    started = time.monotonic()
    with screen.waiting("waiting for both services …"):
        await stack.wait_until_ready()
    took = time.monotonic() - started
    screen.rows(rows.parts(stack))
    answers = [await process.get("/readyz") for process in (stack.relay, stack.tracker)]
    screen.check(Check(f"both services are ready after {took:.1f} s", [200, 200], [status for status, _ in answers]))


async def _send(service: Caller, screen: Screen) -> Mapping[str, str]:
    screen.heading(f"Send {len(mails.ALL)} emails in one group", contract.SEND_EMAIL_SUBJECT)
    answers = []
    for mail in mails.ALL:
        answer = Answer(mail, await service.ask(contract.SEND_EMAIL_SUBJECT, mail.request))
        screen.exchange(mail.to, mail.about, answer.reply)
        answers.append(answer)
    for check in mail_checks.of_replies(answers):
        screen.check(check)
    return {answer.mail.to: answer.email_id for answer in answers}


async def _look_at_a_mail(stack: Stack, screen: Screen, email_ids: Mapping[str, str]) -> None:
    screen.heading("One of them at the SMTP server", "every byte is ASCII, for any content")
    with suppress(TimeoutError):
        await stack.smtp.wait_for_mails(len(ACCEPTED), SETTLED_SECONDS)
    received = list(stack.smtp.mails)
    for mail in received:
        if mails.EMOJI.to in mail.recipients:
            screen.wire(rows.beginning(mail, BODY_LINES))
            screen.line(f"Its subject reads: {mail_checks.parsed(mail)['Subject']}")
    for check in mail_checks.of_mails(received, email_ids):
        screen.check(check)


async def _send_events(stack: Stack, screen: Screen, email_ids: Mapping[str, str]) -> Script:
    script = events.script(email_ids, datetime.now(UTC).replace(microsecond=0))
    count = len(script.before_delivery + script.afterwards)
    screen.heading(f"Send {count} SES events through the queue", "out of order, and one of them twice")
    await _put(stack, screen, script.before_delivery, script)
    screen.check(_settled(stack, "these are applied; now come the events that happened before them"))
    await _put(stack, screen, script.afterwards, script)
    screen.check(_settled(stack, "these are applied too: the queue is empty"))
    return script


async def _put(stack: Stack, screen: Screen, some: Sequence[Notification], script: Script) -> None:
    screen.rows(rows.timeline(some, script), like=rows.timeline(script.distinct, script))
    for event in some:
        stack.sqs.send(event.body)
    with suppress(TimeoutError):  # the check shows what is left
        await stack.sqs.wait_until_empty(SETTLED_SECONDS)


def _settled(stack: Stack, claim: str) -> Check:
    return Check(
        claim, {"waiting": 0, "in flight": 0}, {"waiting": stack.sqs.visible, "in flight": stack.sqs.in_flight}
    )


async def _query_status(service: Caller, screen: Screen, script: Script, email_ids: Mapping[str, str]) -> None:
    screen.heading("Status of the plain email", contract.GET_EMAIL_STATUS_SUBJECT)
    request = contract.GetEmailStatusRequest(email_id=email_ids[mails.PLAIN.to])
    reply = await service.ask(contract.GET_EMAIL_STATUS_SUBJECT, request)
    screen.rows(rows.fields(msgspec.json.decode(reply, type=dict[str, object])))
    for check in event_checks.of_record(msgspec.json.decode(reply, type=contract.EmailRecipientRecord), script):
        screen.check(check)


async def _query_analytics(service: Caller, screen: Screen) -> None:
    screen.heading("Analytics of the group", contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT)
    request = contract.GetEmailEngagementAnalyticsRequest(group_id=mails.GROUP)
    reply = await service.ask(contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT, request)
    counts = msgspec.json.decode(reply, type=dict[str, object])
    screen.rows(rows.fields(counts))
    for check in event_checks.of_analytics(counts):
        screen.check(check)


async def _look_at_pushes(service: Caller, screen: Screen, script: Script, email_ids: Mapping[str, str]) -> None:
    screen.heading("Push events", "to subscribers")
    with suppress(TimeoutError):
        await service.wait_for_pushes(len(script.distinct), PUSHED_SECONDS)
    screen.rows(rows.push_counts(service.pushes))
    for check in event_checks.of_pushes(service.pushes, script, email_ids):
        screen.check(check)

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A recipient with a permanent bounce or a complaint gets no more mail, if the suppression list is enabled."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from nats.js.api import KeyValueConfig

from shared import suppression_list
from tests.acceptance import mails, services
from tests.acceptance.event_cases import at
from tests.stack import nats_proxy, ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.waiting import until
from tests.tracker.commands.operators import Operator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.services import Platform
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

LIST = "email-suppressions"
LOOKUP = f"$JS.API.DIRECT.GET.KV_{LIST}"
ON = {"SUPPRESSION_ENABLED": "true"}


class BothServices(NamedTuple):
    """A relay behind a proxy, a tracker, and the servers they use."""

    platform: Platform
    relay_link: NatsProxy
    smtp: SmtpServer
    sqs: SqsEndpoint


@asynccontextmanager
async def both_services(**variables: str) -> AsyncIterator[BothServices]:
    """Run both services with these variables."""
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        sqs_endpoints.running() as sqs,
        nats_proxy.running(platform.nats.url) as link,
    ):
        await platform.caller.client.jetstream().create_key_value(KeyValueConfig(LIST, history=1, direct=True))
        async with (
            services.relay(link, smtp, **variables),
            services.tracker(platform.nats, sqs, **variables),
        ):
            yield BothServices(platform, link, smtp, sqs)


async def test_after_a_permanent_bounce_or_a_complaint_the_recipient_is_suppressed() -> None:
    async with both_services(**ON) as running:
        caller = running.platform.caller
        for to in ("Ada <Ada@Example.com>", "bob@example.com", "eve@example.com"):
            await caller.sent(to=to, group_id="g")
        ada, bob, eve = (mails.tracking_id(mail) for mail in running.smtp.mails)
        for event in (
            ses_events.bounce(ada, at(1), to="Ada@Example.com"),
            ses_events.complaint(bob, at(2), to="bob@example.com"),
            ses_events.bounce(eve, at(3), to="eve@example.com", bounce_type="Transient"),
        ):
            running.sqs.send(ses_events.notification(event))
        await running.sqs.wait_until_empty()

        bounced = {"error": "recipient suppressed", "reason": "bounce"}
        assert await caller.send(to="ada@example.com") == bounced
        assert await caller.send(to="Ada L. <ADA@example.com>", idempotency_key="") == bounced
        assert await caller.send(to="bob@example.com") == {"error": "recipient suppressed", "reason": "complaint"}
        assert "email_id" in await caller.send(to="eve@example.com")
        assert len(running.smtp.mails) == 4

        entry = await (await caller.client.jetstream().key_value(LIST)).get(suppression_list.key_of("ada@example.com"))
        assert json.loads(entry.value or b"") == {
            "address": "ada@example.com",
            "reason": "bounce",
            "detail": "smtp; 550 5.1.1 user unknown",
            "email_id": ada.rpartition("/")[2],
            "suppressed_at": ses_events.timestamp(at(1)).replace(".000Z", "Z"),
        }


async def test_the_recipient_of_a_forwarded_mail_is_suppressed_whichever_address_the_bounce_names() -> None:
    async with both_services(**ON) as running:
        reports: tuple[object, ...] = ([{"emailAddress": "private@mail.example"}], [], None, [{}])
        for number, named in enumerate(reports):
            to = f"ada{number}@forward.example"
            await running.platform.caller.sent(to=to)
            bounce = ses_events.bounce(mails.tracking_id(running.smtp.mails[-1]), at(1), to=to)
            details = {**bounce["bounce"], "bouncedRecipients": named}
            running.sqs.send(ses_events.notification({**bounce, "bounce": details}))
            await running.sqs.wait_until_empty()
            refused = {"error": "recipient suppressed", "reason": "bounce"}
            assert await running.platform.caller.send(to=to) == refused
        await running.platform.caller.sent(to="private@mail.example")


async def test_without_the_list_nothing_is_sent() -> None:
    async with both_services(**ON) as running:
        await running.platform.caller.client.jetstream().delete_key_value(LIST)
        assert await running.platform.caller.send() == {"error": "internal error", "outcome": "not_sent"}
        assert running.smtp.mails == []


async def test_a_lookup_during_a_nats_outage_sends_nothing_and_is_answered_afterwards() -> None:
    async with both_services(**ON) as running:
        caller, link = running.platform.caller, running.relay_link
        await caller.sent(to="ada@example.com")
        link.lose_request(LOOKUP, 1)
        before = len(link.published)
        asking = asyncio.create_task(caller.send(to="bob@example.com"))

        async def lookups() -> list[str]:
            return [subject for subject in link.published[before:] if subject.startswith(LOOKUP)]

        await until(lookups)
        link.drop_link()
        assert await asking == {"error": "internal error", "outcome": "not_sent"}
        assert [mail.recipients for mail in running.smtp.mails] == [("ada@example.com",)]
        await caller.sent(to="bob@example.com")


async def test_if_disabled_neither_process_uses_the_list() -> None:
    async with both_services() as running:
        caller = running.platform.caller
        await caller.sent()
        [mail] = running.smtp.mails
        running.sqs.send(ses_events.notification(ses_events.bounce(mails.tracking_id(mail), at(1))))
        await running.sqs.wait_until_empty()
        await caller.sent()
        assert not any(LIST in subject for subject in running.relay_link.published)
        assert (await caller.client.jetstream().stream_info(f"KV_{LIST}")).state.last_seq == 0


async def test_an_address_that_an_operator_adds_gets_no_mail_until_it_is_removed() -> None:
    async with both_services(**ON) as running:
        operator = Operator(running.platform.nats.url)
        caller = running.platform.caller
        assert (await operator.run("suppressions", "add", '"Ada"@Bücher.example')).exit_code == 0
        refused = {"error": "recipient suppressed", "reason": "manual"}
        for to in ("ada@bücher.example", 'Ada <"ada"@XN--bcher-kva.example>'):
            assert await caller.send(to=to) == refused
        assert running.smtp.mails == []
        assert (await operator.run("suppressions", "remove", "ADA@bücher.example")).exit_code == 0
        assert "email_id" in await caller.send(to="ada@bücher.example")

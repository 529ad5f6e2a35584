# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The logs of both processes: one line for each email and event, no flood of lines, and no private data."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from shared import contract, group_index
from shared.service import log
from tests.acceptance import services
from tests.acceptance.buckets import Buckets
from tests.acceptance.caller import GET_EMAIL_ENGAGEMENT_ANALYTICS, GET_EMAIL_STATUS, SEND_EMAIL, connected
from tests.stack import nats_server, scripted_smtp, ses_events
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.smtp_scripts import STORE_THEN_CLOSE, Reply, always, first

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.caller import Caller
    from tests.stack.console import Console
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

EMAILS: Final = 40
MALFORMED: Final = log.FLOOD_LINES * 3
PRIVATE: Final = "lovelace"
"""A word in every local part, name, subject, body, link, key, password and user name of these tests; in no domain."""
ADDRESSES: Final = (
    f"ada.{PRIVATE}@example.com",
    f'"ada {PRIVATE}"@example.com',
    f'"a@{PRIVATE}"@example.com',
    f"Ada {PRIVATE} <ada+{PRIVATE}@bücher.example>",
    f"ada {PRIVATE} <>",
    f"ada@{PRIVATE}@example.com@",
    f"{PRIVATE}@example.com, {PRIVATE}@example.org",
    f"x@example.com ({PRIVATE})",
    f"@example.com <{PRIVATE}",
    PRIVATE,
)
BROKEN: Final = tuple(
    body.encode()
    for body in (
        f'{{"to": "{PRIVATE}@example.com"',
        f'{{"to": ["{PRIVATE}@example.com"]}}',
        f'{{"{PRIVATE}@example.com": 1, "to": 1}}',
        f'{{"tags": {{"{PRIVATE}": 1}}}}',
        f"{PRIVATE}@example.com",
        f'"{PRIVATE}@example.com"',
    )
)


GROUP: Final = f"invite-{PRIVATE}@example.com"
PERSONAL: Final[dict[str, Any]] = {
    "to": f"{PRIVATE}@example.com",
    "subject": f"Hello {PRIVATE}",
    "html": f"<p>{PRIVATE}</p>",
    "text": PRIVATE,
    "from_display_name": PRIVATE,
    "reply_to": f"{PRIVATE}@linuxfoundation.org",
    "unsubscribe_url": f"https://example.com/{PRIVATE}",
    "tags": {"who": PRIVATE},
}


class DebugServices(NamedTuple):
    """Both processes at `debug`, with the private word in their credentials."""

    relay: Console
    tracker: Console
    caller: Caller
    smtp: ScriptedSmtp
    sqs: SqsEndpoint

    @property
    def written(self) -> str:
        """The whole output of both processes."""
        return "".join(one.output + one.errors for one in (self.relay, self.tracker))


@pytest.mark.asyncio(loop_scope="module")
async def test_without_errors_there_is_one_line_for_each_email_and_event_and_no_other(
    caller: Caller, relay: Console, tracker: Console, smtp_server: SmtpServer, sqs_endpoint: SqsEndpoint
) -> None:
    assert smtp_server.port
    await relay.wait_for_log("relay.serving")
    await tracker.wait_for_log("tracker.serving")
    before = len(relay.logs), len(tracker.logs)
    ids = await asyncio.gather(*(caller.sent(group_id=f"g{number % 3}") for number in range(EMAILS)))
    for email_id in ids:
        for event in (ses_events.delivery, ses_events.open_, ses_events.click):
            sqs_endpoint.send(ses_events.notification(event(f"g/{email_id}", datetime.now(UTC))))
    await sqs_endpoint.wait_until_empty()
    await asyncio.gather(*(caller.status(email_id=email_id) for email_id in ids))
    await asyncio.gather(*(caller.analytics(group_id="g1") for _ in range(5)))
    for process in (relay, tracker):
        for path in ("/livez", "/readyz", "/metrics"):
            await process.get(path)
    await caller.ask("$SRV.STATS", {})
    await relay.wait_for_log("email.sent", count=EMAILS)
    await tracker.wait_for_log("event.applied", count=3 * EMAILS)
    written = relay.logs[before[0] :], tracker.logs[before[1] :]
    assert [line["msg"] for line in written[0]] == ["email.sent"] * EMAILS
    assert [line["msg"] for line in written[1]] == ["event.applied"] * 3 * EMAILS
    assert {line["level"] for lines in written for line in lines} == {"INFO"}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_flood_of_malformed_requests_writes_few_lines(caller: Caller, relay: Console, tracker: Console) -> None:
    assert tracker.pid
    before = len(relay.logs)
    replies = await caller.publish_all(SEND_EMAIL, [b"no JSON"] * MALFORMED)
    await replies.wait_for(MALFORMED)
    await caller.send(to="nobody")
    await relay.wait_for_log("email.refused", count=log.FLOOD_LINES + 1)
    refused = [line for line in relay.logs[before:] if line["msg"] == "email.refused"]
    assert [line["reason"] for line in refused].count(contract.INVALID_REQUEST_PAYLOAD) == log.FLOOD_LINES
    assert refused[-1]["reason"] == "invalid to address"
    relay.terminate()
    assert await relay.wait() == 0
    (held_back,) = relay.logged("log.held_back")
    assert held_back["about"] == contract.INVALID_REQUEST_PAYLOAD
    assert held_back["lines"] == MALFORMED - log.FLOOD_LINES


async def test_an_address_a_body_or_a_secret_is_not_logged_at_any_level() -> None:
    async with debug_services() as running:
        email_id = await send_all(running.caller, running.smtp)
        await send_events(email_id, running.sqs)
        await ask_all(running.caller)
        for process in (running.relay, running.tracker):
            process.terminate()
            await process.wait()
        assert PRIVATE not in running.written.lower()
        for event in ("sent", "failed", "uncertain", "refused", "retry", "repeated"):
            assert running.relay.logged(f"email.{event}"), event
        assert running.relay.logged("smtp.barred")
        assert running.relay.logged("group_index.corrupt")
        for event in ("event.applied", "event.ignored", "suppression.added", "group_index.corrupt"):
            assert running.tracker.logged(event), event


@asynccontextmanager
async def debug_services() -> AsyncIterator[DebugServices]:
    """Run both services and their servers."""
    user = f"authorization {{ user: {PRIVATE}, password: {PRIVATE} }}"
    options = scripted_smtp.Options(username=f"{PRIVATE}-key", password=f"{PRIVATE}-secret")
    async with (
        nats_server.running(user) as nats,
        scripted_smtp.running(options=options) as smtp,
        sqs_endpoints.running() as sqs,
        connected(nats.url.replace("//", f"//{PRIVATE}:{PRIVATE}@")) as caller,
    ):
        buckets = Buckets(caller.client)
        await buckets.create()
        for name in (contract.EMAIL_IDEMPOTENCY_BUCKET, contract.EMAIL_SUPPRESSIONS_BUCKET):
            await caller.client.jetstream().create_key_value(bucket=name)
        await (await buckets.group_index()).put(group_index.key_of(GROUP), f"{PRIVATE}@example.com".encode())
        debug = {
            "NATS_URL": nats.url.replace("//", f"//{PRIVATE}:{PRIVATE}@"),
            "NATS_INBOX_PREFIX": "_INBOX",
            "LOG_LEVEL": "debug",
            "LOG_ADD_SOURCE": "true",
            "SUPPRESSION_ENABLED": "true",
        }
        login = {"SMTP_USERNAME": f"{PRIVATE}-key", "SMTP_PASSWORD": f"{PRIVATE}-secret"}
        events = {"AWS_SECRET_ACCESS_KEY": PRIVATE, "ENGAGEMENT_RECORD_WAIT_SECONDS": "0.01"}
        async with (
            services.relay(nats, smtp, **debug, **login) as relay,
            services.tracker(nats, sqs, **debug, **events) as tracker,
        ):
            yield DebugServices(relay, tracker, caller, smtp, sqs)


async def send_all(caller: Caller, smtp: ScriptedSmtp) -> str:
    """Send odd requests to the relay, and SMTP replies that quote addresses; return the id of a sent email."""
    smtp.script = first(1, "dot", Reply(f"454 4.7.0 <ada.{PRIVATE}@example.com> try again"))
    repeated = {"to": ADDRESSES[0], "idempotency_key": f"{PRIVATE}-1"}
    email_id = str((await caller.send(**PERSONAL | repeated))["email_id"])
    await caller.send(**PERSONAL | repeated)
    for address in ADDRESSES:
        await caller.send(**PERSONAL | {"to": address, "group_id": GROUP})
    for field in ("from_", "reply_to", "unsubscribe_url", "idempotency_key", "group_id"):
        await caller.send(**PERSONAL | {field: f"{PRIVATE}@example.com\r\n"})
    for body in BROKEN:
        await caller.ask(SEND_EMAIL, body)
    smtp.script = always("rcpt", Reply(f'550 5.1.1 <"ada {PRIVATE}"@example.com> unknown; ask {PRIVATE}@example.com'))
    await caller.send(**PERSONAL)
    smtp.script = always("dot", STORE_THEN_CLOSE)
    await caller.send(**PERSONAL)
    smtp.script = always("auth", Reply(f"535 5.7.8 {PRIVATE}@example.com may not"))
    smtp.reset_sessions()
    await caller.send(**PERSONAL)
    return email_id


async def send_events(email_id: str, sqs: SqsEndpoint) -> None:
    """Send events of that email, events of other emails, and malformed messages to the tracker."""
    at, to = datetime.now(UTC), f"ada.{PRIVATE}@example.com"
    for tracking_id in (f"g/{email_id}", "g/unknown", f"g/{to}", f"{to}/{email_id}"):
        for event in (
            ses_events.delivery(tracking_id, at, to=to),
            ses_events.click(tracking_id, at, f"https://lfx.dev/{PRIVATE}?token={PRIVATE}", to=to),
            ses_events.bounce(tracking_id, at, to=to),
            ses_events.complaint(tracking_id, at, to=f'"ada {PRIVATE}"@example.com'),
            ses_events.delivery(tracking_id, at, to=to) | {"eventType": to},
        ):
            sqs.send(ses_events.notification(event))
    for body in BROKEN:
        sqs.send(body.decode())
    await sqs.wait_until_empty()


async def ask_all(caller: Caller) -> None:
    """Request broken and unknown emails and groups from the tracker."""
    for subject in (GET_EMAIL_STATUS, GET_EMAIL_ENGAGEMENT_ANALYTICS):
        for body in (*BROKEN, json.dumps({"group_id": GROUP}).encode()):
            await caller.ask(subject, body)
    await caller.status(email_id=f"{PRIVATE}@example.com")

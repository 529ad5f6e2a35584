# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Two relays, two trackers and the Go service use the same buckets: every result is exact."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from nats.js.errors import APIError, KeyNotFoundError

from tests.acceptance import caller as callers
from tests.acceptance import mails, services
from tests.acceptance.event_cases import HARD_BOUNCE, Sent, at, delivered, failed, opened, text
from tests.stack import console, ses_events
from tests.stack import smtp_server as smtp_servers
from tests.stack import sqs_endpoint as sqs_endpoints
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Caller
    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

EMAILS = 160
GROUPS = ("first", "second", "Third group", "fourth..group")
AT_ONCE = 32
GO_EMAILS = 40


class TwoOfEach(NamedTuple):
    """Two relays, two trackers, and the servers they use."""

    platform: Platform
    smtp: SmtpServer
    sqs: SqsEndpoint
    relays: Sequence[Console]
    trackers: Sequence[Console]

    async def shares(self) -> list[int]:
        """Return the number of emails sent by each relay, and of events applied by each tracker."""
        sent = [len(relay.logged("email.sent")) for relay in self.relays]
        return sent + [len(tracker.logged("event.applied")) for tracker in self.trackers]


@asynccontextmanager
async def two_of_each() -> AsyncIterator[TwoOfEach]:
    """Run two relays and two trackers on one NATS server."""
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        sqs_endpoints.running() as sqs,
        services.relay(platform.nats, smtp) as first_relay,
        services.relay(platform.nats, smtp) as second_relay,
        services.tracker(platform.nats, sqs) as first_tracker,
        services.tracker(platform.nats, sqs) as second_tracker,
    ):
        yield TwoOfEach(platform, smtp, sqs, (first_relay, second_relay), (first_tracker, second_tracker))


async def send_all(caller: Caller) -> dict[str, list[str]]:
    """Send emails to each group in turn, many at once; return their ids by group."""
    email_ids: dict[str, list[str]] = {group: [] for group in GROUPS}
    places = asyncio.Semaphore(AT_ONCE)

    async def send(number: int) -> None:
        group = GROUPS[number % len(GROUPS)]
        async with places:
            email_ids[group].append(await caller.sent(group_id=group, to=f"reader-{number}@example.com"))

    await asyncio.gather(*map(send, range(EMAILS)))
    return email_ids


def happened(sent: Sent, number: int) -> tuple[dict[str, ses_events.Event], dict[str, Any]]:
    """Return the events of one email by id, and their changes to its record."""
    events: dict[str, ses_events.Event] = {}
    changes: dict[str, Any] = {}
    tracking_id, email_id = sent.tracking_id, sent.email_id
    if number % 10 == 9:
        events[f"{email_id}-b"] = ses_events.bounce(tracking_id, at(5))
        return events, failed(5, HARD_BOUNCE)
    events[f"{email_id}-d"] = ses_events.delivery(tracking_id, at(2))
    changes |= delivered(2)
    opens = [(f"{email_id}-o{count}", 10 + count) for count in range(number % 4)]
    events |= {event_id: ses_events.open_(tracking_id, at(seconds)) for event_id, seconds in opens}
    if opens:
        changes |= opened(*opens)
    if number % 4 == 3:
        link, event_id = "https://lfx.dev/?token=1", f"{email_id}-c"
        events[event_id] = ses_events.click(tracking_id, at(20), link)
        entry = {"event_id": event_id, "link": link, "clicked_at": text(20)}
        changes |= {"clicked": True, "click_count": 1, "click_list": [entry], "last_clicked_at": text(20)}
    if number % 25 == 3:
        events[f"{email_id}-s"] = ses_events.complaint(tracking_id, at(30))
        changes |= failed(30, {"kind": "complaint", "type": "abuse"})
    return events, changes


def counts(group_id: str, records: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Count a group's records."""
    return {
        "group_id": group_id,
        "total_sent": len(records),
        "delivered": sum(record["delivered"] for record in records),
        "opened": sum(record["open_count"] for record in records),
        "unique_opened": sum(record["opened"] for record in records),
        "failed": sum(record["failed"] for record in records),
    }


async def test_two_relays_and_two_trackers_give_exact_results() -> None:
    chance = random.Random(1)  # noqa: S311 - the same shuffle each time
    async with two_of_each() as running:
        caller, buckets = running.platform.caller, running.platform.buckets
        pushes = await caller.subscribe()
        email_ids = await send_all(caller)
        every = [email_id for some in email_ids.values() for email_id in some]
        assert Counter(map(mails.email_id, running.smtp.mails)) == Counter(every)
        assert len(set(every)) == EMAILS
        expected: dict[str, dict[str, Any]] = {record["email_id"]: record for record in await buckets.records(every)}
        assert len(expected) == EMAILS

        bodies: list[str] = []
        announced = 0
        for number, mail in enumerate(running.smtp.mails):
            sent = Sent(mails.tracking_id(mail))
            events, changes = happened(sent, number)
            expected[sent.email_id] |= changes
            bodies += [ses_events.notification(event, event_id) for event_id, event in events.items()]
            announced += len(events)
        bodies += chance.sample(bodies, len(bodies) // 2)  # replays
        chance.shuffle(bodies)
        for body in bodies:
            running.sqs.send(body)
        await running.sqs.wait_until_empty(30)

        for group_id in GROUPS:
            answer = await caller.status(group_id=group_id)
            assert Counter(record["email_id"] for record in answer) == Counter(email_ids[group_id])
            assert answer == [expected[record["email_id"]] for record in answer]
            for _ in running.trackers:
                assert await caller.analytics(group_id=group_id) == counts(group_id, answer)
        await pushes.wait_for(announced)
        assert Counter(push.subject for push in pushes.all) == Counter(
            {
                callers.EMAIL_DELIVERED: sum(record["delivered"] for record in expected.values()),
                callers.EMAIL_OPENED: sum(record["open_count"] for record in expected.values()),
                callers.EMAIL_LINK_CLICKED: sum(record["click_count"] for record in expected.values()),
                callers.EMAIL_FAILED: sum(record["failed"] for record in expected.values()),
            }
        )
        assert min(await until(running.shares, lambda shares: sum(shares) == EMAILS + announced, timeout=20)) > 0


class GoService:
    """Writes as the Go service does: a record, then the group's one array, with optimistic locking."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    async def record_email(self, group_id: str) -> str:
        """Write the record of a sent email."""
        email_id = str(uuid.uuid4())
        record = {
            "email_id": email_id,
            "group_id": group_id,
            "to": "ada@example.com",
            "subject": "From Go",
            "sent_at": "2026-01-15T11:59:58.123456789Z",
            "delivered": False,
            "opened": False,
            "failed": False,
        }
        await (await self._buckets.recipients()).create(email_id, json.dumps(record).encode())
        while not await self._append(group_id, email_id):
            continue
        return email_id

    async def _append(self, group_id: str, email_id: str) -> bool:
        index = await self._buckets.group_index()
        try:
            entry = await index.get(group_id)
            value = json.dumps([*json.loads(entry.value or b"[]"), email_id]).encode()
            await index.update(group_id, value, last=entry.revision)
        except KeyNotFoundError:
            return await self._create(group_id, email_id)
        except APIError:  # another writer was faster
            return False
        return True

    async def _create(self, group_id: str, email_id: str) -> bool:
        index = await self._buckets.group_index()
        try:
            await index.create(group_id, json.dumps([email_id]).encode())
        except APIError:
            return False
        return True


async def test_the_go_service_and_two_relays_send_to_one_group() -> None:
    async with two_of_each() as running:
        caller, buckets = running.platform.caller, running.platform.buckets
        go = GoService(buckets)
        ours, by_go = await asyncio.gather(
            asyncio.gather(*(caller.sent(group_id="shared") for _ in range(GO_EMAILS))),
            asyncio.gather(*(go.record_email("shared") for _ in range(GO_EMAILS))),
        )
        assert Counter(await buckets.email_ids("shared")) == Counter([*ours, *by_go])
        for email_id in (*ours, *by_go):
            event = ses_events.open_(f"shared/{email_id}", at(5))
            running.sqs.send(ses_events.notification(event, email_id))
            running.sqs.send(ses_events.notification(event, email_id))
        await running.sqs.wait_until_empty()
        answer = await caller.status(group_id="shared")
        assert Counter(record["email_id"] for record in answer) == Counter([*ours, *by_go])
        for record in answer:
            changes = opened((record["email_id"], 5))
            assert record | changes == record
        assert await caller.analytics(group_id="shared") == counts("shared", answer)
        assert (await caller.analytics(group_id="shared"))["opened"] == 2 * GO_EMAILS


async def test_services_that_start_at_once_create_their_buckets() -> None:
    async with services.platform() as platform, smtp_servers.running() as smtp, sqs_endpoints.running() as sqs:
        await platform.buckets.delete()
        relay = {"NATS_URL": platform.nats.url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port)}
        tracker = services.tracker_environment(platform.nats, sqs, NATS_URL=platform.nats.url)
        async with (
            console.running(services.RELAY, "serve", "--create-missing", env=relay) as first,
            console.running(services.RELAY, "serve", "--create-missing", env=relay) as second,
            console.running(services.TRACKER, "serve", "--create-missing", env=tracker) as third,
        ):
            await asyncio.gather(*(process.wait_until_ready() for process in (first, second, third)))
            email_id = await platform.caller.sent(group_id="g")
            sqs.send(ses_events.notification(ses_events.delivery(f"g/{email_id}", at(2))))
            await sqs.wait_until_empty()
            [record] = await platform.caller.status(group_id="g")
            assert record["delivered"]
            third.kill()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Servers and services crash or stop under load: no acknowledged email is lost, and each request has a reply."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance import load, mails, services
from tests.acceptance.caller import SEND_EMAIL, delivery_failed, email
from tests.stack import nats_proxy, scripted_smtp
from tests.stack import smtp_server as smtp_servers
from tests.stack.change import Change
from tests.stack.smtp_scripts import Delay
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.acceptance.buckets import Buckets
    from tests.acceptance.caller import Replies
    from tests.acceptance.load import Load
    from tests.stack.received_mail import ReceivedMail
    from tests.stack.smtp_scripts import Action, Moment

IN_FLIGHT = 20


class SlowDots:
    """A script that delays the reply to each final dot, and counts the dots."""

    def __init__(self, seconds: float) -> None:
        self._action = Delay(seconds)
        self._count = 0
        self._change = Change()

    def __call__(self, moment: Moment) -> Action | None:
        """Return the action at a final dot (the interface of a script)."""
        if moment.stage != "dot":
            return None
        self._count += 1
        self._change.notify()
        return self._action

    async def wait_for(self, count: int) -> None:
        """Return when `count` final dots have arrived."""
        await self._change.wait_until(lambda: self._count >= count, 10, lambda: f"{self._count} of {count} dots")


async def index_of(buckets: Buckets, groups: Iterable[str]) -> Counter[str]:
    """Return how often each id is in the index of these groups."""
    return Counter([email_id for group in groups for email_id in await buckets.email_ids(group)])


async def missing(buckets: Buckets, load: Load) -> set[str]:
    """Return the acknowledged emails without a record or without an index entry."""
    recorded = {record["email_id"] for record in await buckets.records(sorted(load.email_ids))}
    indexed = {group: set(await buckets.email_ids(group)) for group in load.acknowledged}
    lost = {one for group, email_ids in load.acknowledged.items() for one in email_ids if one not in indexed[group]}
    return lost | (load.email_ids - recorded)


def sent(received: Iterable[ReceivedMail]) -> Counter[str]:
    """Return how often each email was received."""
    return Counter(map(mails.email_id, received))


def bodies(first: int, count: int) -> list[bytes]:
    """Return requests with a number as subject."""
    return [json.dumps(email(group_id="g", subject=f"{number}")).encode() for number in range(first, first + count)]


def answers(*replies: Replies) -> list[Any]:
    """Return the one reply to each request."""
    return [json.loads(body) for some in replies for [body] in some.bodies.values()]


async def test_after_a_crash_of_nats_each_sent_email_has_its_record_and_index_entry() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp) as relay,
    ):
        async with load.running(platform.caller, patience=1.0) as under:
            await under.wait_for(100)
            await platform.nats.kill()
            await relay.wait_for_status("/readyz", 503)
            assert (await relay.get("/livez"))[0] == 200
            await platform.nats.start()
            await under.wait_for(100)
        assert under.errors == []
        assert set(sent(smtp.mails).values()) == {1}

        async def index() -> Counter[str]:
            return await index_of(platform.buckets, under.acknowledged)

        assert await until(index, lambda index: index == sent(smtp.mails), timeout=20) >= Counter(under.email_ids)
        assert await missing(platform.buckets, under) == set()
        assert relay.logged("record.lost") == []


async def test_a_crash_of_one_of_two_relays_loses_no_acknowledged_email() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp),
        services.relay(platform.nats, smtp) as victim,
    ):
        async with load.running(platform.caller, patience=1.0) as under:
            await under.wait_for(200)
            await victim.wait_for_log("email.sent")
            victim.kill()
            await under.wait_for(100)
        assert await victim.wait() == -signal.SIGKILL
        assert await missing(platform.buckets, under) == set()
        assert set(sent(smtp.mails).values()) == {1}
        index = await index_of(platform.buckets, under.acknowledged)
        assert Counter(under.email_ids) <= index <= sent(smtp.mails)


async def test_two_relays_share_the_requests_and_send_each_email_once() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp) as first,
        services.relay(platform.nats, smtp) as second,
    ):
        replies = await platform.caller.publish_all(SEND_EMAIL, bodies(0, 200))
        await replies.wait_for(200)
        acknowledged = Counter(answer["email_id"] for answer in answers(replies))
        assert acknowledged == sent(smtp.mails) == await index_of(platform.buckets, ["g"])
        assert Counter(mails.content(mail).subject for mail in smtp.mails) == Counter(map(str, range(200)))

        async def shares() -> list[int]:
            return [len(relay.logged("email.sent")) for relay in (first, second)]

        assert min(await until(shares, lambda shares: sum(shares) == 200, timeout=20)) > 0


async def test_after_a_signal_under_load_each_request_is_answered_by_this_or_the_other_relay() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp) as first,
        services.relay(platform.nats, smtp),
    ):
        async with load.running(platform.caller) as under:
            await under.wait_for(100)
            first.terminate()
            assert await first.wait() == 0
            await under.wait_for(100)
        assert (under.errors, under.unanswered) == ([], 0)
        assert await missing(platform.buckets, under) == set()
        assert sent(smtp.mails) == Counter(under.email_ids)


@pytest.mark.parametrize("again", [(), (signal.SIGTERM, signal.SIGINT)], ids=["one-signal", "more-signals"])
async def test_after_a_signal_requests_in_flight_and_in_the_connection_are_answered(
    again: tuple[signal.Signals, ...],
) -> None:
    dots = SlowDots(0.5)
    async with (
        services.platform() as platform,
        scripted_smtp.running(dots) as smtp,
        nats_proxy.running(platform.nats.url) as connection,
        services.relay(connection, smtp) as relay,
    ):
        in_flight = await platform.caller.publish_all(SEND_EMAIL, bodies(0, IN_FLIGHT))
        await dots.wait_for(IN_FLIGHT)
        connection.freeze()
        just_published = await platform.caller.publish_all(SEND_EMAIL, bodies(IN_FLIGHT, IN_FLIGHT))
        relay.terminate()
        await relay.wait_for_log("process.stopping")
        connection.thaw()
        for number in again:
            await relay.wait_for_log("endpoint.draining")
            relay.send(number)
        assert await relay.wait() == 0
        await in_flight.wait_for(IN_FLIGHT)
        await just_published.wait_for(IN_FLIGHT)
        replied = Counter(answer.get("email_id") for answer in answers(in_flight, just_published))
        assert replied == sent(smtp.mails) == await index_of(platform.buckets, ["g"])
        assert len(replied) == 2 * IN_FLIGHT
        assert Counter(mails.content(mail).subject for mail in smtp.mails) == Counter(map(str, range(2 * IN_FLIGHT)))
        assert len(await platform.buckets.records(list(replied))) == 2 * IN_FLIGHT


async def test_at_the_shutdown_timeout_each_open_request_gets_an_error() -> None:
    dots = SlowDots(30.0)
    async with (
        services.platform() as platform,
        scripted_smtp.running(dots) as smtp,
        services.relay(platform.nats, smtp, SHUTDOWN_TIMEOUT_SECONDS="1") as relay,
    ):
        in_flight = await platform.caller.publish_all(SEND_EMAIL, bodies(0, IN_FLIGHT))
        await dots.wait_for(IN_FLIGHT)
        relay.terminate()
        assert await relay.wait() == 0
        await in_flight.wait_for(IN_FLIGHT)
        assert all(answer == delivery_failed("unknown") for answer in answers(in_flight))


async def test_deleted_buckets_get_every_record_when_they_are_created_again() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, SEND_RETRY_SECONDS="1") as relay,
    ):
        caller, buckets = platform.caller, platform.buckets
        await asyncio.gather(*(caller.sent(group_id="g") for _ in range(5)))
        await buckets.delete()
        replies = await caller.publish_all(SEND_EMAIL, bodies(0, 20))
        await replies.wait_for(20)
        acknowledged = {answer["email_id"] for answer in answers(replies)}
        assert len(acknowledged) == 20
        await buckets.create()
        group = await until(lambda: buckets.email_ids("g"), lambda email_ids: len(email_ids) == 20, timeout=20)
        assert set(group) == acknowledged
        assert {record["email_id"] for record in await buckets.records(group)} == acknowledged
        assert len(smtp.mails) == 25
        assert relay.logged("record.lost") == []
        assert await caller.sent(group_id="g") in await buckets.email_ids("g")


async def test_a_stop_without_buckets_waits_for_them() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, SEND_RETRY_SECONDS="0.5") as relay,
    ):
        await platform.buckets.delete()
        email_id = await platform.caller.sent(group_id="g")
        relay.terminate()
        await relay.wait_for_log("records.flushing")
        await platform.buckets.create()
        assert await relay.wait() == 0
        assert await platform.buckets.email_ids("g") == [email_id]
        assert await platform.buckets.record(email_id)


async def test_a_stop_without_buckets_logs_each_lost_record_at_the_shutdown_timeout() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, SEND_RETRY_SECONDS="0.5", SHUTDOWN_TIMEOUT_SECONDS="1") as relay,
    ):
        await platform.buckets.delete()
        email_ids = await asyncio.gather(*(platform.caller.sent(group_id="g") for _ in range(3)))
        relay.terminate()
        assert await relay.wait() == 0
        await relay.wait_for_log("record.lost", count=3)
        assert sorted(line["email_id"] for line in relay.logged("record.lost")) == sorted(email_ids)


async def test_a_short_outage_of_the_smtp_server_loses_no_email() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp),
        load.running(platform.caller) as under,
    ):
        await under.wait_for(50)
        await smtp.stop()
        reached = len(smtp.mails)
        await smtp.start()
        await under.wait_for(100)
        under.stop()
        # The outcome of a mail is unknown if its final dot was sent; every other mail is tried again.
        assert len(under.errors) <= 16
        assert len(smtp.mails) > reached
        assert set(sent(smtp.mails).values()) == {1}


GO_REQUEST = (
    rb'{"to":"ada@example.com","subject":"You\u0026I \u003cnow\u003e",'
    rb'"html":"\u003cp\u003eHi \u0026 bye\u2028\u003c/p\u003e",'
    rb'"text":"Hi \u0026 bye","group_id":"","from":"","from_display_name":"","reply_to":""}'
)


async def test_a_request_in_the_json_of_go_is_understood() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp),
        services.tracker(platform.nats),
    ):
        full = GO_REQUEST.replace(b'"group_id":""', b'"group_id":"batch"').replace(
            b'"reply_to":""', b'"reply_to":"a@linuxfoundation.org"'
        )
        for request in (GO_REQUEST, full):
            reply = await platform.caller.ask(SEND_EMAIL, request)
            content = mails.content(smtp.mails[-1])
            assert (content.subject, content.html, content.text) == (
                "You&I <now>",
                "<p>Hi & bye\u2028</p>".encode(),
                b"Hi & bye",
            )
            record = await platform.caller.status(email_id=reply["email_id"], group_id="")
            assert (record["subject"], record["group_id"]) == ("You&I <now>", reply["group_id"])
        assert reply["group_id"] == "batch"
        assert mails.content(smtp.mails[-1]).reply_to == [("", "a@linuxfoundation.org")]

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The NATS users of docs/security.md have every permission that they need, and no other."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner

from relay.cli import main as relay_main
from shared import contract, push_stream
from shared.kv import setup
from shared.nats import connection as nats_connection
from shared.service.settings import ProcessSettings
from tests import samples
from tests.acceptance import caller as callers
from tests.acceptance import mails, permissions, restricted_services, services
from tests.acceptance.caller import Caller, Pushes
from tests.acceptance.event_cases import at
from tests.acceptance.permissions import ADMIN, CALLER, CONSUMER, RELAY, RETENTION, TRACKER, covers
from tests.stack import console, nats_proxy, ses_events
from tests.stack.nats_flush import flush
from tests.tracker.commands.operators import Operator

if TYPE_CHECKING:
    from nats.aio.client import Client

    from tests.acceptance.restricted_services import RestrictedServices
    from tests.stack.smtp_server import SmtpServer

USERS: Final = permissions.users()
ON: Final = {"SUPPRESSION_ENABLED": "true", "PUSH_EVENTS_DURABLE": "true", "SES_ACCOUNT_SEND_RATE": "1000"}
PUSHED: Final = (callers.EMAIL_DELIVERED, callers.EMAIL_OPENED, callers.EMAIL_LINK_CLICKED, callers.EMAIL_FAILED)
ALLOWED_TO_NONE: Final = (
    *(f"$JS.API.STREAM.{verb}.KV_{name}" for verb in ("DELETE", "PURGE", "UPDATE") for name in contract.BUCKETS),
    "$JS.API.STREAM.CREATE.X",
    "$JS.API.STREAM.LIST",
    *(f"$JS.API.STREAM.{verb}.{contract.PUSH_EVENTS_STREAM}" for verb in ("CREATE", "DELETE", "PURGE", "UPDATE")),
    f"$JS.API.STREAM.MSG.DELETE.{contract.PUSH_EVENTS_STREAM}",
    f"$JS.API.CONSUMER.DELETE.{contract.PUSH_EVENTS_STREAM}.invites",
    "$KV.another.x",
)
SUBSCRIBED_BY_NONE: Final = (">", "_INBOX.>", "_INBOX.*.>", "$KV.>", "$JS.>", "lfx.email-service.*")


async def test_each_feature_works_with_the_users_of_the_page_and_uses_each_of_their_permissions() -> None:
    async with (
        restricted_services.running(USERS.values(), eventing=True, **ON) as running,
        permissions.connected(running.links[CALLER].url, CALLER) as client,
        console.running(services.TRACKER, "watch", "--count", "4", env=running.environment(CALLER)) as watching,
        samples.python(samples.of_page("python")[0], running.environment(CONSUMER, DATABASE=":memory:")) as consumer,
    ):
        asking, pushes = Caller(client), Pushes()
        for subject in PUSHED:
            await client.subscribe(subject, cb=pushes.collect)
        ada, bob = await mail(asking, running.smtp)
        assert await asking.status(group_id="g") == [await asking.status(email_id=one) for one in (ada, bob)]
        assert (await asking.analytics(group_id="g"))["total_sent"] == 2

        await watching.wait_for_error("Watching")
        for event in events_of(f"g/{ada}", f"g/{bob}"):
            running.sqs.send(ses_events.notification(event))
        assert {push.subject for push in await pushes.wait_for(4, 20)} == set(PUSHED)
        assert await watching.wait(20) == 0
        assert set(await samples.lines(consumer, 2)) == {f"email_delivered {ada}\n", f"email_failed {bob}\n"}
        await running.sqs.wait_until_empty()
        counts = {"delivered": 1, "opened": 1, "unique_opened": 1, "failed": 1}
        assert await asking.analytics(group_id="g") == {"group_id": "g", "total_sent": 2, **counts}
        assert (await asking.send(to="bob@example.com"))["error"] == "recipient suppressed"
        await fill_buckets(running.admin)
        assert (await asking.analytics(group_id="g"))["delivered"] == 1
        for verb in ("PING", "INFO", "STATS"):
            assert await served(running.admin, verb) == {services.RELAY, services.TRACKER}

        await check_passes(running)
        await commands_work(running, f"g/{ada}")
        assert "Violation" not in running.nats.log
        for process in (running.relay, running.tracker):
            assert process.logged("nats.denied") == process.logged("nats.error") == []
        for name, user in ((name, USERS[name]) for name in permissions.NAMES):
            published, heard = running.links[name].published, await running.subscriptions(name)
            assert [one for one in user.publish if not any(covers(one, subject) for subject in published)] == []
            assert [one for one in user.subscribe if not any(covers(one, subject) for subject in heard)] == []


async def mail(asking: Caller, smtp: SmtpServer) -> tuple[str, str]:
    """Send two emails, one of them twice under one key."""
    request: dict[str, Any] = {"to": "ada@example.com", "group_id": "g", "idempotency_key": "welcome-ada"}
    ada = await asking.sent(**request)
    assert await asking.sent(**request) == ada
    bob = await asking.sent(to="bob@example.com", group_id="g")
    assert [mails.email_id(one) for one in smtp.mails] == [ada, bob]
    return ada, bob


def events_of(ada: str, bob: str) -> list[ses_events.Event]:
    return [
        ses_events.delivery(ada, at(1)),
        ses_events.open_(ada, at(2)),
        ses_events.click(ada, at(3)),
        ses_events.bounce(bob, at(4), to="bob@example.com"),
    ]


async def fill_buckets(admin: Client) -> None:
    """Write enough to the buckets for the server to send flow control requests to the tracker, which follows them."""
    for number in range(30):
        await admin.publish(f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}.{number}", bytes(60_000))
        headers = {"Large": "x" * 60_000}  # the tracker does not follow the values of the index
        await admin.publish(f"$KV.{contract.EMAIL_GROUP_INDEX_BUCKET}.{number}", b"[]", headers=headers)


async def served(admin: Client, verb: str) -> set[str]:
    """Ask both services by their names, as `nats micro` does; return the names that replied."""
    replies = [
        await admin.request(f"$SRV.{verb}.{name}", b"", timeout=20) for name in (services.RELAY, services.TRACKER)
    ]
    return {json.loads(reply.data)["name"] for reply in replies}


async def check_passes(running: RestrictedServices) -> None:
    """Run `check` of both services with the variables of their pods."""

    async def passes(script: str, environment: dict[str, str]) -> None:
        async with console.running(script, "check", env=environment) as process:
            assert await process.wait(30) == 0, process.output

    await asyncio.gather(
        passes(services.RELAY, services.relay_environment(running.links[RELAY], running.smtp, **ON)),
        passes(services.TRACKER, services.tracker_environment(running.links[TRACKER], running.sqs, **ON)),
    )


async def commands_work(running: RestrictedServices, tracking_id: str) -> None:
    """Run each command as the user that the page names for it."""
    asking, changing = Operator("", **running.environment(CALLER)), Operator("", **running.environment(TRACKER, **ON))
    reading = Operator("", **running.environment(CONSUMER))
    saved = ses_events.notification(ses_events.bounce(tracking_id, at(5), to="eve@example.com"))
    lost = ses_events.notification(ses_events.delivery("g/lost", at(5)))
    for operator, words, text in (
        (asking, ("status", "--group-id", "g"), ""),
        (asking, ("analytics", "g"), ""),
        (reading, ("watch", "--since", "1h", "--count", "4"), ""),
        (changing, ("status", "--group-id", "g"), ""),
        (changing, ("analytics", "g"), ""),
        (changing, ("suppressions", "add", "joe@example.com"), ""),
        (changing, ("suppressions", "list"), ""),
        (changing, ("status", "--to", "ada@example.com"), ""),
        (changing, ("replay", "-", "--dry-run"), saved),
        (changing, ("replay", "-"), saved),
        (changing, ("replay", "-", "--rebuild"), lost),
        (changing, ("erase", "--to", "ada@example.com", "--yes", "--with-suppression"), ""),
    ):
        result = await operator.run(*words, text=text)
        assert (result.exit_code, "violation" in result.stderr.lower()) == (0, False), (words, result.output)
    send = ("send", "--to", "joe@example.org", "--subject", "Hello", "--html", __file__, "--text", "-")
    result = await asyncio.to_thread(
        CliRunner().invoke, relay_main, send, env=running.environment(CALLER), input="Hello"
    )
    assert (result.exit_code, "violation" in result.stderr.lower()) == (0, False), result.output


async def test_the_permissions_of_unused_features_can_be_left_out() -> None:
    users = [user.without_options() for user in USERS.values()]
    async with (
        restricted_services.running(users, eventing=False) as running,
        permissions.connected(running.nats.url, CALLER) as client,
    ):
        asking = Caller(client)
        email_id = await asking.sent(group_id="g")
        assert (await asking.status(email_id=email_id))["to"] == "ada@example.com"
        assert (await asking.analytics(group_id="g"))["total_sent"] == 1
        assert "Violation" not in running.nats.log


async def test_retention_works_with_its_user_and_uses_each_permission() -> None:
    user = USERS[RETENTION]
    async with (
        permissions.server([user]) as nats,
        permissions.connected(nats.url, ADMIN) as admin,
        nats_proxy.running(nats.url) as link,
    ):
        await restricted_services.make_store(admin)
        records, index = [await admin.jetstream().key_value(name) for name in contract.BUCKETS[:2]]
        record = {"sent_at": "2020-01-02T03:04:05Z", "delivered": True}
        for email_id in ("a", "changed"):
            await records.put(email_id, json.dumps(record).encode())
        await index.put("g", b'["a","changed"]')
        await index.put("=seal.0.g", b'{"leaving":{"changed":[1,0,0,0,0]}}')
        operator = Operator("", **permissions.variables(link.url, RETENTION))
        for options in ((), ("--yes",)):
            done = await operator.run("retention", "--older-than", "180d", *options)
            assert done.exit_code == 0, done.output
        assert json.loads((await index.get("=seal.0.g")).value or b"")["delivered"] == 2
        assert "Violation" not in nats.log
        assert [one for one in user.publish if not any(covers(one, subject) for subject in link.published)] == []


async def test_a_reply_subject_or_a_consumer_gives_no_user_the_permissions_of_a_service() -> None:
    async with (
        restricted_services.running(USERS.values(), eventing=False) as running,
        permissions.connected(running.nats.url, CALLER) as client,
        permissions.connected(running.nats.url, TRACKER) as tracker,
    ):
        body = json.dumps(callers.email()).encode()
        for subject in (callers.SEND_EMAIL, callers.GET_EMAIL_STATUS):
            await client.publish(subject, body, reply=f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}.forged")
        await tracker.request(f"$KV.{contract.EMAIL_RECIPIENTS_BUCKET}.forged", body, timeout=10)
        consumer = {"deliver_subject": callers.SEND_EMAIL, "deliver_policy": "all", "ack_policy": "none"}
        stream = f"KV_{contract.EMAIL_RECIPIENTS_BUCKET}"
        query = json.dumps({"stream_name": stream, "config": consumer}).encode()
        await tracker.request(f"$JS.API.CONSUMER.CREATE.{stream}", query, timeout=10)
        await running.relay.wait_for_log("request.ignored")
        asked = await Caller(client).sent(to="bob@example.com")
        assert [mails.email_id(one) for one in running.smtp.mails] == [asked]
        assert (await running.admin.jetstream().stream_info(stream)).state.last_seq == 2


async def test_each_user_is_refused_the_permissions_of_the_others() -> None:
    async with permissions.server(USERS.values()) as nats, permissions.connected(nats.url, ADMIN) as admin:
        await restricted_services.make_store(admin)
        allowed: set[str] = set()  # of all users so far, since a stream may store a message after the user has left
        for name, user in USERS.items():
            subjects = {concrete(one) for other in USERS.values() for one in other.publish} | set(ALLOWED_TO_NONE)
            topics = {one for other in USERS.values() for one in other.subscribe} | set(SUBSCRIBED_BY_NONE)
            topics |= {one.partition(" ")[0] for one in topics if " " in one}
            refused = await tried(nats.url, name, sorted(subjects), sorted(topics))
            may_not = {f'publish to "{one}"' for one in subjects if not any(covers(own, one) for own in user.publish)}
            may_not |= {f'subscription to "{one}"' for one in topics if one not in user.subscribe}
            assert refused == {one.lower() for one in may_not}
            assert len(may_not) > 30
            written = {str(one.config.name) for one in await admin.jetstream().streams_info() if one.state.last_seq}
            allowed |= {f"KV_{one.split('.')[1]}" for one in user.publish if one.startswith("$KV.")}
            allowed |= {contract.PUSH_EVENTS_STREAM} if set(PUSHED) <= set(user.publish) else set()
            assert written <= allowed


async def tried(url: str, name: str, subjects: list[str], topics: list[str]) -> set[str]:
    """Publish and subscribe; return what the server refused."""
    errors: list[str] = []
    async with permissions.connected(url, name, errors) as client:
        for subject in subjects:
            await client.publish(subject, b"")
        for topic in topics:
            subject, _, queue = topic.partition(" ")
            await client.subscribe(subject, queue=queue)
        await flush(client)
    found = [re.search(r'(publish|subscription) to "([^"]+)"(?: using queue "([^"]+)")?', error) for error in errors]
    assert all(found), errors
    return {f'{one[1]} to "{" ".join(filter(None, one.groups()[1:]))}"' for one in found if one}


def concrete(pattern: str) -> str:
    """Return a subject that matches a pattern."""
    return pattern.replace("*", "x").replace(">", "x")


@pytest.mark.parametrize("name", [RELAY, TRACKER])
async def test_buckets_and_stream_can_be_created_with_the_permissions_that_the_page_lists_for_it(name: str) -> None:
    user = USERS[name].with_more(*permissions.to_create_missing())
    async with permissions.server([user]) as nats, permissions.connected(nats.url, ADMIN) as admin:
        settings = ProcessSettings(nats_url=permissions.url(nats.url, name), nats_inbox_prefix=f"_INBOX.{name}")
        async with nats_connection.opened(settings, "tests") as connection:
            await setup.create_missing(connection, contract.BUCKETS)
            await push_stream.create_missing(connection)
        assert len(await admin.jetstream().streams_info()) == len(contract.BUCKETS) + 1
        assert "Violation" not in nats.log

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One mail for each idempotency key, whoever repeats the request and whatever dies in between."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from nats.js.api import KeyValueConfig

from tests.acceptance import services
from tests.acceptance.caller import SEND_EMAIL, email
from tests.stack import scripted_smtp
from tests.stack import smtp_server as smtp_servers
from tests.stack.smtp_scripts import STORE_THEN_CLOSE, Reply, Silence, Store, first
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.caller import Caller
    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.smtp_scripts import Script
    from tests.stack.smtp_server import SmtpServer

BUCKET = KeyValueConfig("email-idempotency", history=1, ttl=86_400, direct=True)
pytestmark = pytest.mark.asyncio(loop_scope="module")
IN_PROGRESS = {"error": "request in progress"}


@asynccontextmanager
async def promising() -> AsyncIterator[Platform]:
    """A NATS server with the bucket of the keys as well."""
    async with services.platform() as platform:
        await platform.caller.client.jetstream().create_key_value(BUCKET)
        yield platform


@pytest_asyncio.fixture(loop_scope="module")
async def key_bucket(platform: Platform) -> AsyncIterator[None]:
    """The bucket of the keys, beside the other two."""
    await platform.caller.client.jetstream().create_key_value(BUCKET)
    yield
    await platform.caller.client.jetstream().delete_key_value(BUCKET.bucket)


async def with_header(caller: Caller, key: str, **changes: object) -> Any:
    """Send with the key in the header."""
    body = json.dumps(email(**changes)).encode()
    reply = await caller.client.request(SEND_EMAIL, body, timeout=10, headers={"Idempotency-Key": key})
    return json.loads(reply.data)


async def test_thirty_repeats_at_once_over_two_relays_send_one_mail() -> None:
    async with (
        promising() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp),
        services.relay(platform.nats, smtp),
    ):
        for key in ("one", "two", "three"):
            sent = len(smtp.mails)
            replies = await asyncio.gather(*[platform.caller.send(idempotency_key=key) for _ in range(30)])
            [ids] = [reply for reply in {json.dumps(one): one for one in replies}.values() if "email_id" in reply]
            assert all(reply in (ids, IN_PROGRESS) for reply in replies)
            assert await platform.caller.send(idempotency_key=key) == ids
            assert len(smtp.mails) == sent + 1
            assert await platform.buckets.email_ids(ids["group_id"]) == [ids["email_id"]]


@pytest.mark.usefixtures("key_bucket")
async def test_repeat_after_a_lost_reply_gets_the_ids_of_the_first(
    caller: Caller, relay: Console, smtp_server: SmtpServer
) -> None:
    sent = len(smtp_server.mails)
    lines = len(relay.logged("email.sent"))
    await caller.client.publish(SEND_EMAIL, json.dumps(email(idempotency_key="lost")).encode())
    line = await relay.wait_for_log("email.sent", count=lines + 1)

    async def repeat() -> Any:
        return await caller.send(idempotency_key="lost")

    reply = await until(repeat, lambda reply: reply != IN_PROGRESS)
    assert reply["email_id"] == line["email_id"]
    assert len(smtp_server.mails) == sent + 1


@pytest.mark.usefixtures("relay", "key_bucket")
async def test_key_may_stand_in_the_header_and_the_field_counts_before_it(
    caller: Caller, smtp_server: SmtpServer
) -> None:
    sent = len(smtp_server.mails)
    ids = await with_header(caller, "in a header")
    assert await with_header(caller, "in a header") == ids
    assert await caller.send(idempotency_key="in a header") == ids
    assert await with_header(caller, "of another", idempotency_key="in a header") == ids
    assert len(smtp_server.mails) == sent + 1
    assert await with_header(caller, "of another") != ids


@pytest.mark.usefixtures("relay", "key_bucket")
async def test_other_content_under_a_key_is_refused_and_the_same_written_otherwise_is_not(
    caller: Caller, smtp_server: SmtpServer
) -> None:
    sent = len(smtp_server.mails)
    ids = await caller.send(idempotency_key="content", tags={"a": "1", "b": "2"})
    assert await caller.send(idempotency_key="content", tags={"a": "1"}) == {"error": "idempotency key reused"}
    body = json.dumps(email(tags={"b": "2", "a": "1"}, reply_to="", unknown=1, idempotency_key="content"), indent=2)
    assert await caller.ask(SEND_EMAIL, body.encode()) == ids
    assert len(smtp_server.mails) == sent + 1


@pytest.mark.usefixtures("relay", "key_bucket")
async def test_malformed_key_is_refused_after_everything_else(caller: Caller) -> None:
    assert await caller.send(idempotency_key="x" * 257) == {"error": "invalid idempotency_key"}
    assert await with_header(caller, "") == {"error": "invalid idempotency_key"}
    assert await caller.send(idempotency_key=7) == {"error": "invalid request payload"}
    assert await caller.send(idempotency_key="x" * 257, to="nobody") == {"error": "invalid to address"}
    assert "email_id" in await caller.send(idempotency_key="é" * 256)


@pytest.mark.usefixtures("relay")
async def test_without_the_bucket_a_request_with_a_key_sends_nothing(caller: Caller, smtp_server: SmtpServer) -> None:
    sent = len(smtp_server.mails)
    assert await caller.send(idempotency_key="k") == {"error": "internal error"}
    assert len(smtp_server.mails) == sent
    assert "email_id" in await caller.send(idempotency_key="")


@asynccontextmanager
async def relay_before(script: Script) -> AsyncIterator[tuple[Platform, scripted_smtp.ScriptedSmtp]]:
    """A relay whose mail server follows a script."""
    async with (
        promising() as platform,
        scripted_smtp.running(script) as smtp,
        services.relay(platform.nats, smtp),
    ):
        yield platform, smtp


async def test_definite_failure_frees_the_key_at_once() -> None:
    async with relay_before(first(1, "rcpt", Reply("550 5.1.1 no such user"))) as (platform, smtp):
        assert await platform.caller.send(idempotency_key="k") == {"error": "email delivery failed"}
        ids = await platform.caller.send(idempotency_key="k", subject="Hello again")
        assert await platform.caller.send(idempotency_key="k", subject="Hello again") == ids
        assert len(smtp.mails) == 1


async def test_mail_of_unknown_outcome_is_never_sent_again_under_its_key() -> None:
    async with relay_before(first(1, "dot", STORE_THEN_CLOSE)) as (platform, smtp):
        assert await platform.caller.send(idempotency_key="k") == {"error": "email delivery failed"}
        for _ in range(3):
            assert await platform.caller.send(idempotency_key="k") == {"error": "delivery outcome unknown"}
        assert await platform.caller.send(idempotency_key="k", subject="x") == {"error": "idempotency key reused"}
        assert "email_id" in await platform.caller.send(idempotency_key="other")
        assert len(smtp.mails) == 2


async def test_relay_killed_between_final_dot_and_record_leaves_a_key_that_sends_nothing_more() -> None:
    async with (
        promising() as platform,
        scripted_smtp.running(first(1, "dot", Store(Silence()))) as smtp,
        services.relay(platform.nats, smtp) as victim,
    ):
        asked = asyncio.create_task(platform.caller.send(idempotency_key="k"))
        await smtp.wait_for_mails(1)
        victim.kill()
        await victim.wait()
        asked.cancel()
        async with services.relay(platform.nats, smtp):
            assert await platform.caller.send(idempotency_key="k") == IN_PROGRESS
            assert await platform.caller.send(idempotency_key="k", text="x") == {"error": "idempotency key reused"}
            assert "email_id" in await platform.caller.send(idempotency_key="other")
            assert len(smtp.mails) == 2


async def test_keys_outlive_nats_and_both_relays() -> None:
    async with promising() as platform, smtp_servers.running() as smtp:
        async with services.relay(platform.nats, smtp) as relay:
            ids = await platform.caller.send(idempotency_key="k")
            await platform.nats.kill()
            await relay.wait_for_status("/readyz", 503)
            await platform.nats.start()
            await relay.wait_until_ready()
            assert await platform.caller.send(idempotency_key="k") == ids
            relay.terminate()
            assert await relay.wait() == 0
        async with services.relay(platform.nats, smtp):
            assert await platform.caller.send(idempotency_key="k") == ids
        assert len(smtp.mails) == 1


async def test_switched_off_relay_takes_any_well_formed_key_and_promises_nothing() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, EMAIL_ENABLED="false"),
    ):
        one, other = [await platform.caller.send(idempotency_key="k") for _ in range(2)]
        assert one["email_id"] != other["email_id"]
        assert await platform.caller.send(idempotency_key="x" * 257) == {"error": "invalid idempotency_key"}

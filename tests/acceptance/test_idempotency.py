# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One mail for each idempotency key, after repeats of the request and crashes of servers and relays."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from nats.js.api import KeyValueConfig

from tests.acceptance import services
from tests.acceptance.caller import SEND_EMAIL, delivery_failed, email
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
async def with_keys() -> AsyncIterator[Platform]:
    """Run a NATS server that also has the bucket of the keys."""
    async with services.platform() as platform:
        await platform.caller.client.jetstream().create_key_value(BUCKET)
        yield platform


@pytest_asyncio.fixture(loop_scope="module")
async def key_bucket(platform: Platform) -> AsyncIterator[None]:
    """The bucket of the keys, in addition to the other two."""
    await platform.caller.client.jetstream().create_key_value(BUCKET)
    yield
    await platform.caller.client.jetstream().delete_key_value(BUCKET.bucket)


async def with_header(caller: Caller, key: str, **changes: object) -> Any:
    """Send a request with the key in the header."""
    body = json.dumps(email(**changes)).encode()
    reply = await caller.client.request(SEND_EMAIL, body, timeout=10, headers={"Idempotency-Key": key})
    return json.loads(reply.data)


async def test_thirty_repeats_at_once_over_two_relays_send_one_mail() -> None:
    async with (
        with_keys() as platform,
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
async def test_a_repeat_after_a_lost_reply_gets_the_ids_of_the_first_request(
    caller: Caller, relay: Console, smtp_server: SmtpServer
) -> None:
    sent = len(smtp_server.mails)
    await caller.client.publish(SEND_EMAIL, json.dumps(email(idempotency_key="lost")).encode())

    async def repeat() -> Any:
        return await caller.send(idempotency_key="lost")

    reply = await until(repeat, lambda reply: reply != IN_PROGRESS)
    await until(lambda: reply["email_id"] in [line["email_id"] for line in relay.logged("email.sent")])
    assert len(smtp_server.mails) == sent + 1


@pytest.mark.usefixtures("relay", "key_bucket")
async def test_the_key_may_be_in_the_header_and_the_field_has_priority(caller: Caller, smtp_server: SmtpServer) -> None:
    sent = len(smtp_server.mails)
    ids = await with_header(caller, "in a header")
    assert await with_header(caller, "in a header") == ids
    assert await caller.send(idempotency_key="in a header") == ids
    assert await with_header(caller, "of another", idempotency_key="in a header") == ids
    assert len(smtp_server.mails) == sent + 1
    assert await with_header(caller, "of another") != ids


@pytest.mark.usefixtures("relay", "key_bucket")
async def test_other_content_under_a_key_is_refused_and_the_same_content_in_other_json_is_not(
    caller: Caller, smtp_server: SmtpServer
) -> None:
    sent = len(smtp_server.mails)
    ids = await caller.send(idempotency_key="content", tags={"a": "1", "b": "2"})
    assert await caller.send(idempotency_key="content", tags={"a": "1"}) == {"error": "idempotency key reused"}
    body = json.dumps(email(tags={"b": "2", "a": "1"}, reply_to="", unknown=1, idempotency_key="content"), indent=2)
    assert await caller.ask(SEND_EMAIL, body.encode()) == ids
    assert len(smtp_server.mails) == sent + 1


@pytest.mark.usefixtures("relay", "key_bucket")
async def test_a_malformed_key_is_refused_after_all_other_checks(caller: Caller) -> None:
    assert await caller.send(idempotency_key="x" * 257) == {"error": "invalid idempotency_key"}
    assert await with_header(caller, "") == {"error": "invalid idempotency_key"}
    assert await caller.send(idempotency_key=7) == {"error": "invalid request payload"}
    assert await caller.send(idempotency_key="x" * 257, to="nobody") == {"error": "invalid to address"}
    assert "email_id" in await caller.send(idempotency_key="é" * 256)


@pytest.mark.usefixtures("relay")
async def test_without_the_bucket_a_request_with_a_key_sends_nothing(caller: Caller, smtp_server: SmtpServer) -> None:
    sent = len(smtp_server.mails)
    assert await caller.send(idempotency_key="k") == {"error": "internal error", "outcome": "not_sent"}
    assert len(smtp_server.mails) == sent
    assert "email_id" in await caller.send(idempotency_key="")


@asynccontextmanager
async def relay_with(script: Script) -> AsyncIterator[tuple[Platform, scripted_smtp.ScriptedSmtp]]:
    """Run a relay and an SMTP server with a script."""
    async with (
        with_keys() as platform,
        scripted_smtp.running(script) as smtp,
        services.relay(platform.nats, smtp),
    ):
        yield platform, smtp


async def test_a_definite_failure_releases_the_key_at_once() -> None:
    async with relay_with(first(1, "rcpt", Reply("550 5.1.1 no such user"))) as (platform, smtp):
        assert await platform.caller.send(idempotency_key="k") == delivery_failed(permanent=True, smtp_code=550)
        ids = await platform.caller.send(idempotency_key="k", subject="Hello again")
        assert await platform.caller.send(idempotency_key="k", subject="Hello again") == ids
        assert len(smtp.mails) == 1


async def test_a_mail_with_an_unknown_outcome_is_not_sent_again_under_its_key() -> None:
    async with relay_with(first(1, "dot", STORE_THEN_CLOSE)) as (platform, smtp):
        assert await platform.caller.send(idempotency_key="k") == delivery_failed("unknown")
        for _ in range(3):
            assert await platform.caller.send(idempotency_key="k") == {"error": "delivery outcome unknown"}
        assert await platform.caller.send(idempotency_key="k", subject="x") == {"error": "idempotency key reused"}
        assert "email_id" in await platform.caller.send(idempotency_key="other")
        assert len(smtp.mails) == 2


async def test_the_key_of_a_relay_that_crashed_after_the_final_dot_sends_no_second_mail() -> None:
    async with (
        with_keys() as platform,
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


async def test_keys_survive_a_crash_of_nats_and_a_restart_of_the_relay() -> None:
    async with with_keys() as platform, smtp_servers.running() as smtp:
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


async def test_with_sending_disabled_a_valid_key_has_no_effect() -> None:
    async with (
        services.platform() as platform,
        smtp_servers.running() as smtp,
        services.relay(platform.nats, smtp, EMAIL_ENABLED="false"),
    ):
        one, other = [await platform.caller.send(idempotency_key="k") for _ in range(2)]
        assert one["email_id"] != other["email_id"]
        assert await platform.caller.send(idempotency_key="x" * 257) == {"error": "invalid idempotency_key"}

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The stream of push events is created once, with its limits, and an unusable one is named with the reason."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import nats
import pytest
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import APIError

from shared import contract, push_stream
from shared.errors import SetupIncomplete, StoreUnavailable, StreamMissing, StreamUnfit
from shared.kv import setup
from shared.nats.inbox import Inbox
from shared.push_stream import PushStream
from tests.shared.connections import as_user, connected, with_inbox
from tests.stack import nats_proxy as proxies
from tests.stack import nats_server as servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from shared.nats.connection import Connection
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.nats_server import NatsServer

ALL = list(contract.PUSH_EVENT_SUBJECTS)


@pytest.fixture
async def js(nats_server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """JetStream as an administrator uses it."""
    async with await nats.connect(nats_server.url) as client:
        yield client.jetstream()


async def test_the_stream_is_created_once_with_its_limits_and_an_existing_one_is_not_changed(
    nats_connection: Connection, js: JetStreamContext
) -> None:
    await asyncio.gather(*[push_stream.create_missing(nats_connection) for _ in range(3)])
    config = (await js.stream_info("email-events")).config
    assert config.subjects == ALL
    assert (config.retention, config.discard, config.storage) == ("limits", "new", "file")
    assert (config.max_age, config.duplicate_window) == (7 * 24 * 3600, 600)
    assert config.max_bytes == push_stream.MAX_BYTES
    await js.update_stream(config.evolve(max_age=3600))
    await push_stream.create_missing(nats_connection)
    async with Inbox(nats_connection) as inbox:
        assert (await PushStream(inbox).info()).config.max_age == 3600 * 1e9


async def test_a_full_stream_refuses_events_and_keeps_those_that_it_has(js: JetStreamContext) -> None:
    await js.add_stream(StreamConfig(name="email-events", subjects=ALL, max_bytes=1000, discard=DiscardPolicy.NEW))
    await js.publish(ALL[0], bytes(700))
    with pytest.raises(APIError, match="maximum bytes exceeded"):
        await js.publish(ALL[1], bytes(700))
    assert (await js.stream_info("email-events")).state.first_seq == 1


@pytest.mark.parametrize(
    ("subjects", "options", "why"),
    [
        (ALL[:3], {}, "does not cover lfx.email-service.email_failed"),
        (["another"], {}, f"does not cover {', '.join(ALL)}"),
        (["lfx.email-service.*"], {}, "also covers lfx.email-service.send_email, lfx.email-service.get_email_status"),
        ([*ALL, "lfx.email-service.send_email"], {}, "also covers lfx.email-service.send_email: JetStream would"),
        (["lfx.>"], {"no_ack": True}, r"also covers .*; acknowledges nothing \(no_ack\)"),
        (ALL, {"no_ack": True}, r"stream email-events acknowledges nothing \(no_ack\)"),
        (ALL, {"sealed": True}, "is sealed"),
    ],
)
async def test_a_stream_that_cannot_hold_the_events_is_named_with_the_reason(
    subjects: list[str], options: dict[str, Any], why: str, nats_connection: Connection, js: JetStreamContext
) -> None:
    config = StreamConfig(name="email-events", subjects=subjects, no_ack="no_ack" in options)
    await js.add_stream(config)
    if "sealed" in options:
        await js.update_stream(config.evolve(sealed=True))
    async with Inbox(nats_connection) as inbox:
        with pytest.raises(StreamUnfit, match=why) as raised:
            await setup.require(nats_connection, PushStream(inbox))
    assert "nats stream edit" in raised.value.advice


@pytest.mark.parametrize(
    "subjects", [ALL, [*ALL, "another"], ["lfx.email-service.email_delivered", *ALL[1:]], ["*.*.email_opened", *ALL]]
)
def test_a_stream_may_have_further_subjects_and_patterns(subjects: list[str]) -> None:
    assert push_stream.unfit(push_stream.PushStreamConfig(subjects=tuple(subjects))) == ""


@pytest.mark.parametrize(
    ("pattern", "subject", "covers"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a.b", True),
        ("*.b", "a.c", False),
        ("a.b.>", "a.b", False),
    ],
)
def test_patterns_cover_subjects_as_in_nats(pattern: str, subject: str, *, covers: bool) -> None:
    assert push_stream.covers(pattern, subject) == covers


@pytest.mark.parametrize("own", [None, ALL[:3]], ids=["missing", "without one subject"])
async def test_another_stream_that_has_the_subjects_is_named(
    own: list[str] | None, nats_connection: Connection, js: JetStreamContext, caplog: pytest.LogCaptureFixture
) -> None:
    await js.add_stream(name="analytics", subjects=["lfx.email-service.email_failed"])
    if own:
        await js.add_stream(name="email-events", subjects=own)
    with caplog.at_level(logging.INFO):
        await push_stream.create_missing(nats_connection)
    assert ("stream.not_created" in caplog.messages) == (own is None)
    async with Inbox(nats_connection) as inbox:
        with pytest.raises(SetupIncomplete, match="the stream analytics has its subjects"):
            await setup.require(nats_connection, PushStream(inbox))


async def test_a_missing_stream_is_not_waited_for_and_the_advice_names_chart_and_option(
    nats_connection: Connection,
) -> None:
    async with Inbox(nats_connection) as inbox:
        with pytest.raises(StreamMissing, match=r"^stream email-events does not exist$") as raised:
            await setup.require(nats_connection, PushStream(inbox))
    assert "natsStream.enabled=true" in raised.value.advice
    assert "--create-missing" in raised.value.advice


@pytest.mark.parametrize(
    "answer",
    [
        proxies.js_error(503, 10008, "JetStream system temporarily unavailable"),
        proxies.js_error(500, 10118, "stream is offline"),
        proxies.no_responders(),
        lambda _: proxies.Answer(b"no JSON"),
        lambda _: proxies.Answer(b"{}"),
    ],
    ids=["10008", "10118", "no responders", "no JSON", "empty"],
)
async def test_a_jetstream_that_is_not_ready_is_waited_for(
    answer: Any, nats_connection: Connection, nats_proxy: NatsProxy
) -> None:
    await push_stream.create_missing(nats_connection)
    nats_proxy.answer("$JS.API.STREAM.INFO", 2, answer)
    async with Inbox(nats_connection) as inbox:
        await setup.require(nats_connection, PushStream(inbox))


async def test_a_user_who_may_not_ask_for_other_streams_gets_the_error_without_them() -> None:
    user = (
        '{ user: u, password: p, permissions: { publish: "$JS.API.STREAM.INFO.email-events", subscribe: "_INBOX.>" } }'
    )
    async with (
        servers.running(f"authorization {{ users: [ {user} ] }}") as server,
        with_inbox(as_user(server.url, "u:p")) as (connection, inbox),
    ):
        with pytest.raises(StreamMissing, match=r"^stream email-events does not exist$"):
            await setup.require(connection, PushStream(inbox))


async def test_in_an_account_without_jetstream_nothing_is_created_and_the_reason_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    users = "accounts { PLAIN: { users: [ {user: u, password: p} ] } }"
    async with servers.running(users) as server, connected(as_user(server.url, "u:p")) as connection:
        await push_stream.create_missing(connection)
        async with Inbox(connection) as inbox:
            with pytest.raises(StoreUnavailable):
                await PushStream(inbox).info()
    assert "stream.not_created" in caplog.messages

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""PUSH_EVENTS_DURABLE=true needs its stream at the start; --create-missing creates it, also under its older name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nats
import pytest

from shared import contract
from tests.acceptance import services
from tests.stack import console, nats_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from tests.stack.nats_server import NatsServer

DURABLE = {"PUSH_EVENTS_DURABLE": "true"}


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """A nats-server without buckets and stream."""
    async with nats_server.running() as running:
        yield running


@pytest.fixture
async def js(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """JetStream as an administrator uses it."""
    async with await nats.connect(server.url) as client:
        yield client.jetstream()


@pytest.mark.parametrize(
    ("streams", "why"),
    [
        ({}, "stream email-events does not exist: install the tracker's chart with natsStream.enabled=true, or"),
        ({"events": "lfx.email-service.email_opened"}, "does not exist; the stream events has its subjects"),
        ({"email-events": "lfx.email-service.email_opened"}, "stream email-events does not cover lfx.email-service.em"),
        ({"email-events": "lfx.email-service.>"}, "stream email-events also covers lfx.email-service.send_email"),
    ],
    ids=["missing", "overlap", "not covered", "requests covered"],
)
async def test_without_a_stream_for_the_events_the_tracker_ends_with_status_1_and_the_reason(
    streams: dict[str, str], why: str, server: NatsServer, js: JetStreamContext
) -> None:
    for name, subject in streams.items():
        await js.add_stream(name=name, subjects=[subject])
    async with console.running(services.TRACKER, "serve", env={"NATS_URL": server.url, **DURABLE}) as tracker:
        assert await tracker.wait() == 1
        assert why in (await tracker.wait_for_log("start.failed"))["error"]


@pytest.mark.parametrize("option", ["--create-missing", "--create-buckets"])
@pytest.mark.parametrize("script", [services.RELAY, services.TRACKER])
async def test_both_processes_create_buckets_and_stream_also_under_the_older_name_of_the_option(
    script: str, option: str, server: NatsServer, js: JetStreamContext
) -> None:
    async with console.running(script, "serve", option, env={"NATS_URL": server.url, **DURABLE}) as process:
        await process.wait_until_ready()
        await process.wait_for_log("stream.created")
        process.kill()
    names = {str(one.config.name) for one in await js.streams_info()}
    assert names == {"email-events", *(f"KV_{bucket}" for bucket in contract.BUCKETS)}


async def test_an_overlap_does_not_stop_a_process_that_does_not_need_the_stream(
    server: NatsServer, js: JetStreamContext
) -> None:
    await js.add_stream(name="events", subjects=["lfx.email-service.email_opened"])
    async with console.running(services.TRACKER, "serve", "--create-missing", env={"NATS_URL": server.url}) as tracker:
        await tracker.wait_until_ready()
        assert "overlap" in (await tracker.wait_for_log("stream.not_created"))["error"]
        tracker.kill()


async def test_check_reports_the_stream_and_ends_with_1_without_it(server: NatsServer, js: JetStreamContext) -> None:
    assert js
    async with console.running(services.TRACKER, "check", env={"NATS_URL": server.url, **DURABLE}) as check:
        assert await check.wait() == 1
        lines = check.output.splitlines()
        (at,) = [number for number, line in enumerate(lines) if "stream email-events" in line]
        assert lines[at].startswith("failed")
        assert lines[at].endswith("does not exist")
        assert lines[at + 1].startswith("         -> install the tracker's chart")

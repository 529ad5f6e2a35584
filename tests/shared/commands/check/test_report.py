# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` prints its findings for people and for machines, and its exit status says whether any failed."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
from click.testing import CliRunner

from relay import cli as relay
from shared import contract
from shared.commands.check.report import Report
from shared.kv import setup
from tests.shared.connections import connected
from tests.stack import nats_server as servers
from tests.stack import scripted_smtp
from tests.stack.ports import free_port
from tracker import cli as tracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from click.testing import Result

    from tests.stack.nats_server import NatsServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[NatsServer]:
    """A nats-server with all buckets."""
    async with servers.running() as running:
        async with connected(running.url) as opened:
            await setup.create_missing(opened, contract.BUCKETS)
        yield running


async def check(process: Any, *arguments: str, **env: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, process.main, ["check", *arguments], env=env)


def report(result: Result) -> Report:
    """Return the JSON document that was printed; standard error is empty."""
    assert result.stderr == ""
    return msgspec.json.decode(result.stdout, type=Report)


async def test_a_healthy_relay_ends_with_0_and_json_is_one_document(server: NatsServer) -> None:
    async with scripted_smtp.running() as smtp:
        env = {"NATS_URL": server.url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port), "SMTP_MAX_CONNECTIONS": ""}
        result = await check(relay, "--json", SES_CONFIGURATION_SET="engagement", **env)
        assert smtp.mails == []
    printed = report(result)
    assert (result.exit_code, printed.process, printed.failed) == (0, "lfx-email-relay", False)
    sources = {one.variable: one.source for one in printed.configuration}
    assert sources["SMTP_PORT"] == "environment"
    assert sources["SMTP_MAX_CONNECTIONS"] == "empty, so the default"
    assert sources["SMTP_HOST"] == "default"
    assert {one.status for one in printed.checks} == {"ok"}
    assert [one.about for one in printed.checks][-4:] == ["SMTP name", "SMTP server", "SMTP TLS", "SMTP login"]


async def test_all_failures_are_printed_and_the_status_is_1(server: NatsServer) -> None:
    env = {"NATS_URL": server.url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(free_port()), "LOG_LEVEL": "loud"}
    result = await check(relay, **env)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("failed   configuration  ")]
    (at,) = [number for number, line in enumerate(lines) if line.startswith("failed   SMTP server  ")]
    assert lines[at + 1].startswith("         -> check SMTP_HOST")
    assert re.fullmatch(r"\d+ ok, 1 warning, 2 failed", lines[-1])
    assert [line for line in lines if line.startswith("ok       bucket email-recipients  ")]
    assert "\x1b" not in result.stdout


async def test_secrets_are_not_shown(server: NatsServer) -> None:
    with_password = server.url.replace("nats://", "nats://relay:s3cret@")
    result = await check(relay, NATS_URL=with_password, SMTP_USERNAME="AKIA", SMTP_PASSWORD="s3cret")
    assert "s3cret" not in result.output
    assert f"nats://***@127.0.0.1:{server.port}" in result.stdout
    tracked = await check(tracker, NATS_URL=server.url, AWS_SECRET_ACCESS_KEY="s3cret", AWS_REGION="eu-west-1")
    assert "s3cret" not in tracked.output
    assert "eu-west-1" in tracked.stdout


@pytest.mark.parametrize("process", [relay, tracker])
async def test_a_process_with_email_or_events_disabled_is_healthy(server: NatsServer, process: Any) -> None:
    printed = report(await check(process, "--json", NATS_URL=server.url))
    assert not printed.failed
    (skipped,) = [one.found for one in printed.checks if one.status == "skipped"]
    assert " is false: " in skipped

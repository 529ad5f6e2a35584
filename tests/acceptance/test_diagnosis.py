# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""When a dependency breaks, `check`, log, metrics and probes name it, and `check` shows what to do."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner

from relay.cli import main as relay_main
from shared.commands.check import nats_check
from tests.acceptance import services
from tests.acceptance.caller import delivery_failed
from tests.stack import console, nats_server, scripted_smtp, ses_events, sqs_endpoint
from tests.stack.smtp_scripts import Reply, always
from tests.stack.waiting import until
from tracker.cli import main as tracker_main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import click

    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.sqs_endpoint import SqsEndpoint

THROTTLED: Final = Reply("454 Throttling failure: Maximum sending rate exceeded.")
QUICK: Final = {"SEND_RETRY_SECONDS": "0.5"}
ACCOUNT: Final = {"SMTP_USERNAME": "AKIDEXAMPLE", "SMTP_PASSWORD": "right"}
UNSET: Final = dict.fromkeys(("SMTP_USERNAME", "SMTP_PASSWORD", "AWS_PROFILE", "AWS_SESSION_TOKEN"))


@pytest.fixture
async def smtp() -> AsyncIterator[ScriptedSmtp]:
    """An SMTP server that requires a login."""
    options = scripted_smtp.Options(username=ACCOUNT["SMTP_USERNAME"], password=ACCOUNT["SMTP_PASSWORD"])
    async with scripted_smtp.running(options=options) as server:
        yield server


@pytest.fixture
async def sqs() -> AsyncIterator[SqsEndpoint]:
    """A queue."""
    async with sqs_endpoint.running() as endpoint:
        yield endpoint


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    """A NATS server and the buckets; the test breaks them."""
    async with services.platform() as running:
        yield running


async def test_a_broken_mail_server_is_named_by_the_relay(platform: Platform, smtp: ScriptedSmtp) -> None:
    variables = {**ACCOUNT, **QUICK}
    given = services.relay_environment(platform.nats, smtp, **variables)
    async with services.relay(platform.nats, smtp, **variables) as relay:
        assert await failures(relay_main, given) == {}

        smtp.script = always("dot", THROTTLED)
        assert await platform.caller.send() == delivery_failed(smtp_code=454)
        assert "Maximum sending rate exceeded" in (await relay.wait_for_log("email.failed"))["error"]
        assert await metric(relay, "email_relay_smtp_throttles_total") >= 1

        await smtp.stop()
        assert await platform.caller.send() == delivery_failed()
        line = await relay.wait_for_log("email.failed", count=2)
        assert (line["kind"], line["code"]) == ("deferred", 0)
        assert str(smtp.port) in line["error"]
        assert await metric(relay, "email_relay_smtp_connections_unopened_total") >= 1
        assert "check SMTP_HOST and SMTP_PORT" in (await failures(relay_main, given))["SMTP server"]

        smtp.script = always("auth", Reply("535 Authentication Credentials Invalid"))
        await smtp.start()
        assert await platform.caller.send() == delivery_failed(smtp_code=535)
        assert (await relay.wait_for_log("smtp.barred"))["code"] == 535
        assert await metric(relay, "email_relay_smtp_bars_total") == 1
        assert "check SMTP_USERNAME and SMTP_PASSWORD" in (await failures(relay_main, given))["SMTP login"]
        assert (await relay.get("/readyz"))[0] == 200, "the SMTP server does not change the readiness"


async def test_missing_buckets_and_a_lost_nats_server_are_named_by_the_relay(
    platform: Platform, smtp: ScriptedSmtp, monkeypatch: pytest.MonkeyPatch
) -> None:
    smtp.options.username = None
    given = services.relay_environment(platform.nats, smtp)
    async with services.relay(platform.nats, smtp, **QUICK) as relay:
        await platform.buckets.delete()
        await platform.caller.sent()
        assert "bucket email-recipients: stream not found" in (await relay.wait_for_log("record.kept"))["error"]
        assert await metric(relay, "email_relay_records_kept") == 1
        failed = await failures(relay_main, given)
        assert set(failed) == {"bucket email-recipients", "bucket email-group-index"}
        assert "install the relay's chart" in failed["bucket email-recipients"]

        await platform.nats.kill()
        await relay.wait_for_status("/readyz", 503)
        assert (await relay.get("/livez"))[0] == 200
        assert await metric(relay, "email_relay_nats_connected") == 0
        await until(lambda: has(relay, "nats.error", servers=f"nats://***@127.0.0.1:{platform.nats.port}"))
        monkeypatch.setattr(nats_check, "CONNECT_SECONDS", 0.3)
        assert "check NATS_URL" in (await failures(relay_main, given))["NATS"]
        relay.kill()  # a graceful stop would try for some seconds to store the held record


async def test_missing_buckets_are_named_by_the_tracker(platform: Platform, sqs: SqsEndpoint) -> None:
    given = services.tracker_environment(platform.nats, sqs)
    async with services.tracker(platform.nats, sqs) as tracker:
        assert await failures(tracker_main, given) == {}
        await platform.buckets.delete()
        sqs.send(ses_events.notification(ses_events.delivery("g/e", datetime.now(UTC))))
        assert "bucket email-recipients" in (await tracker.wait_for_log("event.postponed"))["error"]
        assert await metric(tracker, "email_tracker_events_held") == 1
        assert await platform.caller.status(email_id="e") == {"error": "internal error"}
        assert "stream not found" in (await tracker.wait_for_log("query.failed"))["error"]
        assert "install the relay's chart" in (await failures(tracker_main, given))["bucket email-recipients"]
        assert (await tracker.get("/readyz"))[0] == 200


async def test_missing_sqs_permissions_are_named_by_the_tracker(
    platform: Platform, sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"):
        sqs.fail_next(action, "AccessDenied", 403, times=20)
    given = services.tracker_environment(platform.nats, sqs)
    async with services.tracker(platform.nats, sqs) as tracker:
        assert "AccessDenied" in (await tracker.wait_for_log("queue.receive_failed"))["error"]
        assert await metric(tracker, 'email_tracker_receives_total{result="failed"}') >= 1
        assert "grant them to the tracker's role" in (await failures(tracker_main, given))["SQS permissions"]


async def test_a_refused_subscription_is_named_by_the_relay(smtp: ScriptedSmtp) -> None:
    users = 'authorization { users: [{ user: relay, password: s3cret, permissions: { subscribe: ["_INBOX.>"] } }] }'
    async with nats_server.running(users) as nats:
        with_user = nats.url.replace("//", "//relay:s3cret@")
        env = {"NATS_URL": with_user, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port)}
        async with console.running(services.RELAY, "serve", env=env) as relay:
            await until(lambda: has(relay, "nats.denied", error="send_email"))
            await until(lambda: has(relay, "nats.error", error="$SRV."))
            assert len(relay.logged("nats.denied")) == 1
            assert "s3cret" not in relay.output + relay.errors


async def failures(command: click.Command, variables: dict[str, str]) -> dict[str, str]:
    """Return the failed checks of `check`, each with its finding and its advice."""
    result = await asyncio.to_thread(CliRunner().invoke, command, ["check", "--json"], env=UNSET | variables)
    checks: list[dict[str, Any]] = json.loads(result.stdout)["checks"]
    found = {one["about"]: f"{one['found']} -> {one['advice']}" for one in checks if one["verdict"] == "failed"}
    assert result.exit_code == bool(found)
    return found


async def metric(process: Console, name: str) -> float:
    """Return the value of a metric."""
    _, text = await process.get("/metrics")
    (value,) = re.findall(rf"^{re.escape(name)} (.+)$", text, re.MULTILINE)
    return float(value)


async def has(process: Console, event: str, **fields: str) -> bool:
    """Return whether an event was logged with these words in its fields."""
    return any(all(word in line[field] for field, word in fields.items()) for line in process.logged(event))

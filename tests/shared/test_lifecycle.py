# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both processes by their console scripts: start, readiness, stop, and errors that end the start."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from relay import settings as relay_settings
from relay.settings import RelaySettings
from shared.service import settings
from shared.service.settings import SettingsError
from tests.stack import console
from tests.stack import nats_server as servers
from tests.stack.ports import free_port
from tracker import settings as tracker_settings
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.service.settings import ProcessSettings
    from tests.stack.nats_server import NatsServer

SCRIPTS = ("lfx-email-relay", "lfx-email-tracker")


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_process_waits_for_nats_and_is_ready_when_it_is_connected(script: str) -> None:
    port = free_port()
    async with console.running(script, "serve", env={"NATS_URL": f"nats://127.0.0.1:{port}"}) as process:
        await process.wait_for_status("/livez", 200)
        assert str(port) in (await process.wait_for_log("nats.error"))["servers"]
        assert (await process.get("/readyz"))[0] == 503
        assert "_nats_connected 0.0\n" in (await process.get("/metrics"))[1]
        async with servers.running(port=port):
            await process.wait_until_ready()
            assert "_nats_connected 1.0\n" in (await process.get("/metrics"))[1]
            async with asyncio.timeout(20):
                process.terminate()
                assert await process.wait() == 0


@pytest.mark.parametrize("script", SCRIPTS)
async def test_readiness_follows_nats_and_liveness_does_not(script: str) -> None:
    async with (
        servers.running() as nats,
        console.running(script, "serve", env={"NATS_URL": nats.url}) as process,
    ):
        await process.wait_until_ready()
        await nats.stop()
        await process.wait_for_status("/readyz", 503)
        assert (await process.get("/livez"))[0] == 200
        await nats.start()
        await process.wait_for_status("/readyz", 200)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_process_that_waits_for_nats_stops_at_once_and_ignores_a_second_signal(script: str) -> None:
    async with console.running(script, "serve", env={"NATS_URL": f"nats://127.0.0.1:{free_port()}"}) as process:
        await process.wait_for_status("/livez", 200)
        async with asyncio.timeout(20):
            process.terminate()
            process.send(signal.SIGINT)
            assert await process.wait() == 0
        assert process.errors == ""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("script", SCRIPTS)
async def test_the_end_of_a_terminal_stops_a_process_in_order(script: str, number: signal.Signals) -> None:
    async with console.running(script, "serve", env={"NATS_URL": f"nats://127.0.0.1:{free_port()}"}) as process:
        await process.wait_for_status("/livez", 200)
        process.send(number)
        assert await process.wait() == 0
        assert process.logged("process.stopped")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_signal_of_log_rotation_does_not_end_a_process(script: str, number: signal.Signals) -> None:
    async with console.running(script, "serve", env={"NATS_URL": f"nats://127.0.0.1:{free_port()}"}) as process:
        await process.wait_for_status("/livez", 200)
        process.send(number)
        assert (await process.get("/livez"))[0] == 200
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_credentials_file_that_is_not_asked_for_and_cannot_be_used_is_logged(
    script: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    environment = {"NATS_URL": nats_server.url, "NATS_CREDS": str(tmp_path / "absent")}
    async with console.running(script, "serve", env=environment) as process:
        await process.wait_for_status("/readyz", 200)
        process.terminate()
        assert await process.wait() == 0
    problem = f"NATS_CREDS: {tmp_path / 'absent'}: No such file or directory"
    assert [line["error"].partition(";")[0] for line in process.logged("nats.error")] == [problem]


async def test_a_process_that_was_started_with_nohup_outlives_its_terminal() -> None:
    environment = {"NATS_URL": f"nats://127.0.0.1:{free_port()}"}
    async with console.running(SCRIPTS[0], "serve", env=environment, through=("nohup",)) as process:
        await process.wait_for_status("/livez", 200)
        process.send(signal.SIGHUP)
        assert (await process.get("/livez"))[0] == 200
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("script", "variables", "named"),
    [
        ("lfx-email-relay", {"SMTP_PORT": "x"}, "SMTP_PORT"),
        ("lfx-email-relay", {"SMTP_PASSWORD": "s3cret"}, "SMTP_USERNAME"),
        ("lfx-email-relay", {"NATS_URL": "nats://u:s3cret@:bad"}, "NATS_URL"),
        ("lfx-email-tracker", {"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
        ("lfx-email-tracker", {"SES_EVENTING_ENABLED": "true"}, "SES_ENGAGEMENT_SQS_QUEUE_URL"),
    ],
)
async def test_an_invalid_setting_ends_the_start_with_one_log_line_that_has_its_name(
    script: str, variables: dict[str, str], named: str
) -> None:
    async with console.running(script, "serve", env=variables) as process:
        assert await process.wait() == 1
    [line] = process.logs
    assert (line["level"], line["msg"]) == ("ERROR", "start.failed")
    assert line["error"].startswith(f"{named}: ")
    assert "s3cret" not in process.output
    assert process.errors == ""


@pytest.mark.parametrize(
    ("check", "kind", "variables"),
    [
        (relay_settings.policy, RelaySettings, {"EMAIL_ENABLED": "perhaps"}),
        (relay_settings.policy, RelaySettings, {"SEND_RETRY_SECONDS": "inf"}),
        (relay_settings.policy, RelaySettings, {"SMTP_FROM": "no-address"}),
        (relay_settings.policy, RelaySettings, {"SMTP_ALLOWED_RECIPIENT_DOMAINS": ","}),
        (relay_settings.policy, RelaySettings, {"SES_CONFIGURATION_SET": "x" * 65}),
        (relay_settings.policy, RelaySettings, {"DEFAULT_SMTP_FROM_DISPLAY_NAME": "x" * 257}),
        (relay_settings.policy, RelaySettings, {"DEFAULT_SMTP_FROM_DISPLAY_NAME": "LFX\x1b[2J"}),
        (relay_settings.policy, RelaySettings, {"DEFAULT_SMTP_FROM_DISPLAY_NAME": "LFX\x85Self Serve"}),
        (relay_settings.policy, RelaySettings, {"DEFAULT_SMTP_FROM_DISPLAY_NAME": "LFX\tSelf Serve"}),
        (relay_settings.policy, RelaySettings, {"SES_MAX_SEND_RATE": "inf"}),
        (relay_settings.policy, RelaySettings, {"SES_MAX_SEND_RATE": "1e-320"}),
        (
            tracker_settings.check,
            TrackerSettings,
            {"SES_ENGAGEMENT_SQS_QUEUE_URL": "http://[x", "SES_EVENTING_ENABLED": "true"},
        ),
    ],
)
def test_an_invalid_setting_is_an_error_that_begins_with_its_name(
    check: Callable[[ProcessSettings], object], kind: type[ProcessSettings], variables: dict[str, str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        check(settings.load(variables, kind))
    assert str(caught.value).startswith(f"{next(iter(variables))}: ")


async def test_a_port_in_use_ends_the_start_with_one_log_line_that_has_its_number() -> None:
    async with (
        servers.running() as nats,
        console.running("lfx-email-relay", "serve", env={"NATS_URL": nats.url}) as first,
    ):
        await first.wait_until_ready()
        variables = {"NATS_URL": nats.url, "PORT": str(first.port)}
        async with console.running("lfx-email-relay", "serve", env=variables) as second:
            assert await second.wait() == 1
        [line] = second.logs
        assert line["msg"] == "start.failed"
        assert line["error"] == f"PORT: cannot listen on {first.port}: Address already in use"

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each image, built by its Dockerfile's steps, works and stops as PID 1, unprivileged, on a read-only root."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from shared import __version__
from tests.acceptance import services
from tests.acceptance.buckets import fresh_record
from tests.charts import chart
from tests.images import built, container
from tests.stack import nats_server, ses_events, smtp_server, sqs_endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.images.replay import Image

FOREIGN: Final = {"relay": "boto3", "tracker": "aiosmtplib"}
STOP_SECONDS: Final = 5.0
DELAYS: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Image]:
    """Both images."""
    return built.images(tmp_path_factory)


@pytest.fixture
def contained(images: Mapping[str, Image]) -> Mapping[str, Image]:
    """Both images, on a machine with namespaces."""
    if reason := container.why_not(images["relay"]):
        pytest.skip(reason)
    return images


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_image_prints_its_version(images: Mapping[str, Image], process: str) -> None:
    entry = images[process].command[0]
    done = subprocess.run([entry, "--version"], check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    assert done.stdout == f"lfx-email-{process}, version {__version__}\n"


@pytest.mark.parametrize("process", chart.PROCESSES)
def test_the_image_holds_its_own_requirements_without_pip_and_those_of_the_other(
    images: Mapping[str, Image], process: str
) -> None:
    home = images[process].home
    (packages,) = home.glob("lib/python*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"nats", "shared", process} <= names
    assert not {FOREIGN[process], "pip", "hatchling", "pytest"} & names
    assert {path.name for path in images[process].root.iterdir()} == {"opt"}
    assert {path.name for path in (images[process].root / "opt").iterdir()} == {"venv"}


async def test_the_relay_in_its_container_sends_an_email_and_stops(contained: Mapping[str, Image]) -> None:
    async with services.platform() as platform, smtp_server.running() as smtp:
        variables = {"NATS_URL": platform.nats.url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(smtp.port)}
        async with container.running(contained["relay"], variables) as relay:
            await relay.console.wait_until_ready()
            email_id = await platform.caller.sent()
            assert len(smtp.mails) == 1
            assert (await platform.buckets.record(email_id) or {})["email_id"] == email_id
            await relay.send(signal.SIGTERM)
            assert await relay.console.wait(STOP_SECONDS) == 0
            assert relay.console.errors == ""


async def test_the_tracker_in_its_container_applies_an_event_and_stops(contained: Mapping[str, Image]) -> None:
    async with services.platform() as platform, sqs_endpoint.running() as sqs:
        await platform.buckets.put_records(fresh_record("e1", "g"))
        variables = services.tracker_environment(platform.nats, sqs)
        async with container.running(contained["tracker"], variables) as tracker:
            await tracker.console.wait_until_ready()
            sqs.send(ses_events.notification(ses_events.delivery("g/e1", datetime.now(UTC))))
            await sqs.wait_until_empty()
            assert (await platform.caller.status(email_id="e1"))["delivered"] is True
            await tracker.send(signal.SIGTERM)
            assert await tracker.console.wait(STOP_SECONDS) == 0
            assert tracker.console.errors == ""


@pytest.mark.parametrize("process", chart.PROCESSES)
async def test_sigterm_ends_pid_1_also_during_start_up(contained: Mapping[str, Image], process: str) -> None:
    async with nats_server.running() as nats:
        await asyncio.gather(*[_stop_after(contained[process], {"NATS_URL": nats.url}, delay) for delay in DELAYS])


async def _stop_after(image: Image, variables: Mapping[str, str], delay: float) -> None:
    async with container.running(image, variables) as started:
        await started.pid()
        await asyncio.sleep(delay)  # the test is about this moment of the start-up
        await started.until_caught(signal.SIGTERM)  # the kernel drops signals for a PID 1 without a handler
        await started.send(signal.SIGTERM)
        assert await started.console.wait(STOP_SECONDS) == 0

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Both processes while standard output and standard error are not read, closed or full: they serve, and end with 0."""

from __future__ import annotations

import asyncio
import json
import os
import re
from asyncio.subprocess import DEVNULL
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance import services
from tests.stack import console, ses_events, smtp_server, sqs_endpoint
from tests.stack.unread_pipe import unread_pipe
from tests.stack.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.acceptance.services import Platform
    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint

EMAILS = 60
PROCESSES = ("relay", "tracker")


@contextmanager
def full_pipe() -> Iterator[int]:
    """A full pipe that is not read."""
    with unread_pipe() as pipe:
        yield pipe.descriptor


@contextmanager
def closed_pipe() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, descriptor = os.pipe()
    os.close(reader)
    yield descriptor
    os.close(descriptor)


@contextmanager
def full_device() -> Iterator[int]:
    """A device that refuses each write, as a full disk does."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


OUTPUTS = {"full pipe": full_pipe, "closed pipe": closed_pipe, "full device": full_device}


@asynccontextmanager
async def serving(
    platform: Platform,
    smtp: SmtpServer,
    sqs: SqsEndpoint,
    output: int,
    through: tuple[str, ...] = (),
    **variables: str,
) -> AsyncIterator[tuple[Console, Console]]:
    """Run both processes with the same standard output and standard error, perhaps through another program."""
    of_relay = services.relay_environment(platform.nats, smtp, **variables)
    of_tracker = services.tracker_environment(platform.nats, sqs, **variables)
    async with (
        console.running(services.RELAY, "serve", env=of_relay, output=output, errors=output, through=through) as relay,
        console.running(
            services.TRACKER, "serve", env=of_tracker, output=output, errors=output, through=through
        ) as tracker,
    ):
        await relay.wait_until_ready()
        await tracker.wait_until_ready()
        yield relay, tracker


async def exercise(platform: Platform, sqs: SqsEndpoint, relay: Console, tracker: Console) -> None:
    """Send emails and their events, and wait until each record has its event."""
    caller = platform.caller
    async with asyncio.timeout(20):
        ids = await asyncio.gather(*(caller.sent(group_id="g") for _ in range(EMAILS)))
        for email_id in ids:
            sqs.send(ses_events.notification(ses_events.delivery(f"g/{email_id}", datetime.now(UTC))))
        await sqs.wait_until_empty()
        assert (await caller.analytics(group_id="g"))["delivered"] == EMAILS
        for process in (relay, tracker):
            assert (await process.get("/livez"))[0] == (await process.get("/readyz"))[0] == 200


@pytest.mark.parametrize(
    ("output", "level"),
    [(full_pipe, "info"), (full_pipe, "debug"), (closed_pipe, "debug"), (full_device, "debug")],
)
async def test_mail_events_and_probes_continue_and_both_processes_end_with_0(
    output: Callable[[], AbstractContextManager[int]], level: str
) -> None:
    async with services.platform() as platform, smtp_server.running() as smtp, sqs_endpoint.running() as sqs:
        with output() as descriptor:
            async with serving(platform, smtp, sqs, descriptor, LOG_LEVEL=level) as (relay, tracker):
                await exercise(platform, sqs, relay, tracker)
                for process in (relay, tracker):
                    process.terminate()
                assert (await relay.wait(), await tracker.wait()) == (0, 0)


async def test_lost_lines_are_counted_in_the_metrics_and_in_the_log_as_soon_as_it_is_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with open(tmp_path / "log", "wb", buffering=0) as output:  # noqa: ASYNC230, PTH123 - a pipe that has its reader
        async with services.platform() as platform, smtp_server.running() as smtp:
            variables = services.relay_environment(platform.nats, smtp)
            async with console.running(services.RELAY, "serve", env=variables, output=output.fileno()) as relay:
                await relay.wait_until_ready()
                assert await lines_lost(relay) == 0
                os.close(reader)
                await platform.caller.sent()
                lost = await until(lambda: lines_lost(relay))
                reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
                email_id = await platform.caller.sent()
                read: list[dict[str, object]] = []

                def email_ids() -> list[object]:
                    read.extend(lines_of(reader))
                    return [line.get("email_id") for line in read]

                sent = (await until(email_ids, lambda seen: email_id in seen)).index(email_id)
                reports = [line for line in read[:sent] if line["msg"] == "log.lost"]
                assert {line["level"] for line in reports} == {"ERROR"}
                assert sum(int(str(line["lines"])) for line in reports) == await lines_lost(relay) >= lost
                os.close(reader)


async def lines_lost(process: Console) -> int:
    """Return the metric."""
    _, text = await process.get("/metrics")
    (value,) = re.findall(r"^email_relay_log_lines_lost_total (\S+)$", text, re.MULTILINE)
    return int(float(value))


def lines_of(reader: int) -> list[dict[str, object]]:
    """Return the log lines in a pipe; none if it is empty."""
    try:
        return [json.loads(line) for line in os.read(reader, 65_536).splitlines()]
    except BlockingIOError:
        return []


async def test_without_standard_output_and_standard_error_no_socket_takes_their_place() -> None:
    """A line that was written to descriptor 1 would go into the connection to NATS."""
    async with services.platform() as platform, smtp_server.running() as smtp, sqs_endpoint.running() as sqs:
        closed = ("sh", "-c", 'exec "$@" >&- 2>&-', "sh")
        async with serving(platform, smtp, sqs, DEVNULL, through=closed) as (relay, tracker):
            await exercise(platform, sqs, relay, tracker)
            await until(lambda: lines_lost(relay), lambda lost: lost > EMAILS)
            for process in (relay, tracker):
                assert all(descriptor(process, number) == Path(os.devnull) for number in (1, 2))
                process.terminate()
            assert (await relay.wait(), await tracker.wait()) == (0, 0)


def descriptor(process: Console, number: int) -> Path:
    """Return what a descriptor of a process is."""
    return Path(f"/proc/{process.pid}/fd/{number}").readlink()


async def test_without_standard_output_the_lines_go_to_standard_error() -> None:
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    variables = {"LOG_LEVEL": "loud"}
    async with console.running(services.RELAY, "serve", env=variables, through=closed) as process:
        assert await process.wait() == 1
    assert json.loads(process.errors)["msg"] == "start.failed"


@pytest.mark.parametrize("script", [services.RELAY, services.TRACKER])
@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
async def test_a_failed_start_ends_with_1_in_time(
    script: str, output: Callable[[], AbstractContextManager[int]]
) -> None:
    with output() as descriptor:
        variables = {"LOG_LEVEL": "loud"}
        async with console.running(script, "serve", env=variables, output=descriptor, errors=descriptor) as process:
            assert await process.wait() == 1

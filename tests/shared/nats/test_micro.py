# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The answers of the NATS micro protocol, with real counts and times."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import nats
import nats.errors
import pytest
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from shared import __version__
from shared.nats.endpoint import Endpoint
from shared.nats.micro import Discovery
from tests.shared.connections import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from tests.stack.nats_server import NatsServer

SUBJECT = "lfx.email-service.send_email"
NAME = "lfx-email-relay"


@pytest.fixture
async def asking(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A client such as `nats micro`."""
    async with await nats.connect(nats_server.url) as client:
        yield client


@pytest.fixture
async def endpoint(nats_server: NatsServer) -> AsyncIterator[Endpoint]:
    """An endpoint that answers `bad` with an error and `slow` late, and the discovery of its process."""

    async def handle(data: bytes, _headers: object) -> bytes:
        await asyncio.sleep(0.5 if data == b"slow" else 0.01)
        return b'{"error":"invalid to address"}' if data == b"bad" else b"{}"

    async with (
        connected(nats_server.url) as connection,
        Endpoint(connection, SUBJECT, handle, max_in_flight=1) as endpoint,
        Discovery(connection, NAME, "Sends email", [endpoint]),
    ):
        await connection.flush()
        yield endpoint


async def ask(client: Client, subject: str) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads((await client.request(subject, b"", timeout=20)).data)
    return reply


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_requests_to_all_services_to_a_name_and_to_an_id_are_answered(asking: Client, verb: str) -> None:
    answer = await ask(asking, f"$SRV.{verb}")
    assert answer == await ask(asking, f"$SRV.{verb}.{NAME}")
    assert answer == await ask(asking, f"$SRV.{verb}.{NAME}.{answer['id']}")
    assert (answer["name"], answer["version"], answer["metadata"]) == (NAME, __version__, {})
    assert answer["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
    with pytest.raises(nats.errors.NoRespondersError):
        await ask(asking, f"$SRV.{verb}.another")


@pytest.mark.usefixtures("endpoint")
async def test_the_answers_can_be_read_by_the_library(asking: Client) -> None:
    info = ServiceInfo.from_dict(await ask(asking, "$SRV.INFO"))
    [endpoint] = info.endpoints
    assert (info.description, endpoint.name, endpoint.subject) == ("Sends email", "send_email", SUBJECT)
    assert endpoint.queue_group == "lfx.email-service.queue"
    assert ServicePing.from_dict(await ask(asking, "$SRV.PING")).id == info.id
    stats = ServiceStats.from_dict(await ask(asking, "$SRV.STATS"))
    assert stats.started <= stats.started.now(stats.started.tzinfo)


async def test_the_statistics_are_the_counts_and_times_of_the_endpoint(asking: Client, endpoint: Endpoint) -> None:
    for payload in (b"good", b"bad", b"good"):
        await asking.request(SUBJECT, payload, timeout=20)
    [stats] = (await ask(asking, "$SRV.STATS"))["endpoints"]
    assert (stats["num_requests"], stats["num_errors"], stats["last_error"]) == (3, 1, "invalid to address")
    assert stats["processing_time"] == pytest.approx(endpoint.seconds.total * 1e9, rel=1e-6)
    assert stats["processing_time"] >= 3 * 0.01 * 1e9
    assert stats["average_processing_time"] == stats["processing_time"] // 3


async def test_a_full_endpoint_is_answered_for_and_its_refusals_are_counted(asking: Client, endpoint: Endpoint) -> None:
    first = asyncio.create_task(asking.request(SUBJECT, b"slow", timeout=20))
    while not endpoint.in_flight:
        await asyncio.sleep(0.001)
    assert b"service busy" in (await asking.request(SUBJECT, b"good", timeout=20)).data
    await first
    [stats] = (await ask(asking, "$SRV.STATS"))["endpoints"]
    assert (stats["num_requests"], stats["num_errors"], stats["last_error"]) == (2, 1, "service busy")


async def test_a_process_that_has_left_does_not_answer(nats_server: NatsServer, asking: Client) -> None:
    async with connected(nats_server.url) as connection:
        async with Discovery(connection, "lfx-email-tracker", "", []):
            await connection.flush()
            assert (await ask(asking, "$SRV.PING.lfx-email-tracker"))["name"] == "lfx-email-tracker"
        await connection.flush()
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(asking, "$SRV.PING.lfx-email-tracker")

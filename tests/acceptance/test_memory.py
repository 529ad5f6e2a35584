# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A burst of large requests: each has one reply, and the memory of the process is bounded.

BURST_REQUESTS and BURST_BYTES make it larger, such as 2,000 requests of 400,000 bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from shared import contract
from tests.acceptance import caller, services
from tests.acceptance.caller import GET_EMAIL_STATUS, SEND_EMAIL, email
from tests.bench import proc
from tests.stack import scripted_smtp, smtp_scripts
from tests.stack.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.caller import Replies
    from tests.acceptance.services import Platform

CALLERS = 3
REQUESTS = int(os.environ.get("BURST_REQUESTS", "120"))
BYTES = int(os.environ.get("BURST_BYTES", "400000"))  # in all 48 MB: NATS keeps as many for a process that is slow
LIMIT = 8_000_000
HTML = "<p>Hello Ada \U0001f600</p>\n" * (BYTES // 24)
LARGEST_MB = 91  # 35 at the start, and seven times the limit


async def burst(platform: Platform, subject: str, request: bytes) -> Counter[str]:
    """Send the same request from several connections at once; return how often each reply came."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(caller.connected(platform.nats.url)) for _ in range(CALLERS)]
        requests = [request] * (REQUESTS // CALLERS)
        replies: list[Replies] = await asyncio.gather(*(one.publish_all(subject, requests) for one in callers))
        for one in replies:
            await one.wait_for(len(requests), timeout=40)
    bodies = [json.loads(body) for one in replies for [body] in one.bodies.values()]
    return Counter(body.get("error", "sent") for body in bodies)


async def test_a_relay_answers_each_request_of_a_burst_within_its_memory() -> None:
    request = json.dumps(email(html=HTML), ensure_ascii=False).encode()
    settings = {"MAX_IN_FLIGHT_BYTES": str(LIMIT), "SMTP_TIMEOUT_SECONDS": "1", "SEND_RETRY_SECONDS": "1"}
    async with (
        services.platform() as platform,
        scripted_smtp.running(smtp_scripts.always("dot", smtp_scripts.Silence())) as smtp,
        services.relay(platform.nats, smtp, **settings) as relay,
    ):
        replies = await burst(platform, SEND_EMAIL, request)
        assert set(replies) == {contract.DELIVERY_FAILED, contract.SERVICE_BUSY}
        assert replies[contract.DELIVERY_FAILED] >= LIMIT // len(request)
        assert proc.peak_mb([relay.pid]) < LARGEST_MB
        assert relay.logged("request.busy")[0]["in_flight_bytes"] <= LIMIT

        async def all_released() -> bool:
            return "email_relay_in_flight_bytes 0.0" in (await relay.get("/metrics"))[1]

        await until(all_released)


async def test_a_tracker_answers_each_request_of_a_burst_within_its_memory() -> None:
    request = json.dumps({"email_id": HTML}, ensure_ascii=False).encode()
    async with (
        services.platform() as platform,
        services.tracker(platform.nats, MAX_IN_FLIGHT_BYTES=str(LIMIT)) as tracker,
    ):
        replies = await burst(platform, GET_EMAIL_STATUS, request)
        assert replies.total() == REQUESTS
        assert proc.peak_mb([tracker.pid]) < LARGEST_MB
        assert "email_tracker_in_flight_bytes 0.0" in (await tracker.get("/metrics"))[1]

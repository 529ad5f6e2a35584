# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A single email beside a mailing that exceeds the rate, and a mail server that refuses a part of the emails."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance import services
from tests.acceptance.caller import SEND_EMAIL, email
from tests.stack import scripted_smtp, smtp_scripts

if TYPE_CHECKING:
    from tests.acceptance.caller import Caller
    from tests.stack.smtp_scripts import Action, Moment

BUSY = {"error": "service busy"}
THROTTLED = smtp_scripts.Reply("454 Throttling failure: Maximum sending rate exceeded.")


class Limited:
    """A script that accepts a number of emails in any second, and refuses the others."""

    def __init__(self, rate: int) -> None:
        self.attempts = self.refused = 0
        self._accepted: deque[float] = deque([float("-inf")] * rate, maxlen=rate)

    def __call__(self, moment: Moment) -> Action | None:
        """Return the refusal, or accept."""
        if moment.stage != "dot":
            return None
        self.attempts += 1
        if time.monotonic() - self._accepted[0] < 1:
            self.refused += 1
            return THROTTLED
        self._accepted.append(time.monotonic())
        return None


async def send_mailing(caller: Caller, left: deque[int], results: list[Any]) -> None:
    """Send emails of one group, one after the other, until none is left; wait a little when the service is busy."""
    while left:
        number = left.popleft()
        reply = await caller.send(group_id="mailing", subject=f"{number}")
        while reply == BUSY:
            await asyncio.sleep(0.05)
            reply = await caller.send(group_id="mailing", subject=f"{number}")
        results.append(reply)


@pytest.mark.parametrize("single", [{}, {"group_id": "another"}])
async def test_a_single_email_does_not_wait_behind_a_mailing_and_is_never_refused(single: dict[str, str]) -> None:
    async with (
        services.platform() as platform,
        scripted_smtp.running() as smtp,
        services.relay(platform.nats, smtp, MAX_IN_FLIGHT="40", SES_MAX_SEND_RATE="20"),
    ):
        mailing: deque[int] = deque(range(10_000))
        results: list[Any] = []
        callers = [asyncio.create_task(send_mailing(platform.caller, mailing, results)) for _ in range(60)]
        await smtp.wait_for_mails(3)
        for _ in range(3):
            sent = len(smtp.mails)
            reply = await platform.caller.send(**single)
            assert "error" not in reply
            assert len(smtp.mails) - sent < 20, "30 to 40 emails of the mailing wait for the rate"
        mailing.clear()  # a cancellation is lost if the reply comes in the same moment (python/cpython#86296)
        for task in callers:
            task.cancel()
        await asyncio.wait(callers)
        assert all("error" not in result for result in results)


async def test_one_group_leaves_the_last_quarter_of_the_requests_in_flight_to_others() -> None:
    async with (
        services.platform() as platform,
        scripted_smtp.running(smtp_scripts.always("dot", smtp_scripts.Silence())) as smtp,
        services.relay(platform.nats, smtp, MAX_IN_FLIGHT="8", SHUTDOWN_TIMEOUT_SECONDS="1") as relay,
    ):
        of_a_group = await platform.caller.publish_all(SEND_EMAIL, [json.dumps(email(group_id="g")).encode()] * 20)
        await of_a_group.wait_for(14)
        others = await platform.caller.publish_all(SEND_EMAIL, [json.dumps(email()).encode()] * 3)
        await others.wait_for(1)
        _, metrics = await relay.get("/metrics")
        assert "email_relay_in_flight_requests 8.0" in metrics
        replies = [json.loads(body) for [body] in (*of_a_group.bodies.values(), *others.bodies.values())]
        assert replies == [BUSY] * 15


async def test_the_relay_finds_the_rate_of_a_server_that_throttles() -> None:
    script = Limited(40)
    async with (
        services.platform() as platform,
        scripted_smtp.running(script) as smtp,
        services.relay(platform.nats, smtp, SMTP_MAX_CONNECTIONS="4") as relay,
    ):
        bodies = [json.dumps(email(group_id="g")).encode()] * 160
        replies = await platform.caller.publish_all(SEND_EMAIL, bodies)
        await replies.wait_for(60)
        _, metrics = await relay.get("/metrics")
        assert "email_relay_smtp_throttled_rate 0.0" not in metrics
        assert "email_relay_smtp_throttled_rate " in metrics
        await replies.wait_for(160)
        assert all(b'"error"' not in body for [body] in replies.bodies.values())
        assert script.refused < script.attempts / 10
        assert len(smtp.mails) == 160
        assert len(relay.logged("smtp.throttled")) == 1

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Mixed load at a constant rate for a long time: memory and latency must not grow."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import msgspec

from shared import contract
from shared.contract import GetEmailEngagementAnalyticsRequest, GetEmailStatusRequest, SendEmailResponse
from tests.bench import mails, proc, row
from tests.bench.caller import Request
from tests.bench.row import MEGABYTES, Collected, Sample
from tests.bench.scenarios import send

if TYPE_CHECKING:
    from tests.bench.row import Row
    from tests.bench.sqs_feed import Feed
    from tests.bench.stage import Stage

SLICES = 10
SENDERS = 20
PAUSE = 0.1  # limits the senders to 200 emails a second
EMAILS_PER_GROUP = 1000
_decode = msgspec.json.Decoder(SendEmailResponse).decode


class Mixed:
    """Sends emails, requests the status of each, and sends its events; requests analytics at every 20th email."""

    def __init__(self, stage: Stage, feed: Feed) -> None:
        self._stage = stage
        self._feed = feed
        self._group_id = str(uuid4())
        self._in_group = 0
        self._bodies: list[str] = []
        self.latencies: list[float] = []

    async def send(self, until: float) -> None:
        """Send emails until this time, at least one."""
        began = 0.0
        while began < until:
            began = time.perf_counter()
            reply = await self._stage.caller.ask(
                Request(contract.SEND_EMAIL_SUBJECT, mails.send_request(self._current_group()))
            )
            sent = _decode(reply)
            self._bodies += mails.engagement(sent.group_id, [sent.email_id])
            await self._ask(contract.GET_EMAIL_STATUS_SUBJECT, GetEmailStatusRequest(email_id=sent.email_id))
            if self._in_group % 20 == 0:
                question = GetEmailEngagementAnalyticsRequest(group_id=sent.group_id)
                await self._ask(contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT, question)
            self.latencies.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE)

    async def feed_events(self, until: float) -> None:
        """Put the events of the sent emails into the queue, once a second."""
        while time.perf_counter() < until:
            bodies, self._bodies = self._bodies, []
            await self._feed.hold(bodies)
            await self._feed.release()
            await asyncio.sleep(min(1.0, max(0.0, until - time.perf_counter())))

    async def _ask(self, subject: str, question: msgspec.Struct) -> None:
        await self._stage.caller.ask(Request(subject, msgspec.json.encode(question)))

    def _current_group(self) -> str:
        self._in_group += 1
        if self._in_group > EMAILS_PER_GROUP:
            self._group_id, self._in_group = str(uuid4()), 1
        return self._group_id


class Memory(NamedTuple):
    """The processes whose memory is measured."""

    relay: int
    tracker: int

    def note(self, collected: Collected, case: str) -> None:
        """Add a row for each."""
        for name, pid in self._asdict().items():
            sample = Sample(value=proc.rss_mb(pid), peak_mb=proc.peak_mb([pid]))
            collected.add(f"{name}: memory", "part", sample, case=case, unit=MEGABYTES)


async def run(stage: Stage) -> list[Row]:
    """Mixed load: emails, their events, status and analytics; memory and latency must stay constant."""
    collected = Collected()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(stage.sink())
        feed = await stack.enter_async_context(stage.queue())
        relay = await stack.enter_async_context(stage.relay(target))
        tracker = await stack.enter_async_context(stage.tracker(feed))
        await stage.caller.load(send.requests(SENDERS), SENDERS)
        mixed, memory = Mixed(stage, feed), Memory(relay.pid, tracker.pid)
        seconds = stage.options.duration / SLICES
        for number in range(1, SLICES + 1):
            sample = await _slice(mixed, seconds, [relay.pid, tracker.pid])
            case = f"{number}/{SLICES}"
            collected.add("emails with status and events", "service", sample, case=case)
            memory.note(collected, case)
        await feed.until_empty()
    return collected.rows()


async def _slice(mixed: Mixed, seconds: float, pids: list[int]) -> Sample:
    mixed.latencies = []
    began, cpu = time.perf_counter(), proc.cpu_seconds(pids)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(mixed.feed_events(began + seconds))
        for _ in range(SENDERS):
            tasks.create_task(mixed.send(began + seconds))
    return row.of_rate(mixed.latencies, time.perf_counter() - began, proc.cpu_seconds(pids) - cpu)

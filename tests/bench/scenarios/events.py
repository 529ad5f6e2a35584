# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Events: a full queue, received, applied to the records and deleted by one tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from shared.contract import EmailRecipientRecord
from tests.bench import buckets, mails, proc, row
from tests.bench.row import Collected

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.bench.program import Program
    from tests.bench.row import Row, Sample
    from tests.bench.sqs_feed import Feed
    from tests.bench.stage import Stage

DURABLE = "durable"
EVENTS_OF_AN_EMAIL = 3


async def run(stage: Stage) -> list[Row]:
    """Events: a full queue with three events for each email."""
    collected = Collected()
    emails, few = stage.options.count(2000), stage.options.count(100)
    async with stage.queue() as feed:
        for _ in range(stage.options.runs):
            plain = await _apply(stage, feed, stage.tracker(feed), emails)
            collected.add("tracker", "service", plain)
            if not stage.options.program:  # another program has no durable push events
                collected.add("tracker", "service", await _apply_durably(stage, feed, emails), case=DURABLE)
                collected.add("tracker, push events not durable", "limit", plain, case=DURABLE)
            if stage.options.alone:
                continue
            drain = stage.helper("sqs_drain", feed.queue_url)
            collected.add("boto3 receive and delete", "limit", await _take(stage, feed, drain, emails))
            naive = stage.helper("naive_events", stage.nats_url, feed.queue_url)
            collected.add("one event at a time", "naive", await _take(stage, feed, naive, few))
    return collected.rows()


async def _apply(stage: Stage, feed: Feed, tracker: AbstractAsyncContextManager[Program], emails: int) -> Sample:
    """Measure the tracker until the queue is empty; check that each record has its delivery, open and click.

    Another program may know fewer kinds of events.
    """
    group_id = str(uuid4())
    email_ids = await buckets.fill_group(stage.caller, group_id, emails)
    sample = await _empty(feed, tracker, mails.engagement(group_id, email_ids))
    if stage.options.program:
        return sample
    for value in await buckets.read_records(stage.caller, email_ids):
        record = msgspec.json.decode(value, type=EmailRecipientRecord)
        if not (record.delivered and record.open_count == 1 and record.click_count == 1):
            raise RuntimeError(f"an event is missing: {value!r}")
    return sample


async def _apply_durably(stage: Stage, feed: Feed, emails: int) -> Sample:
    """Measure the same with PUSH_EVENTS_DURABLE=true; check that each push event is in the stream."""
    async with buckets.push_events_stream(stage.caller) as count:
        sample = await _apply(stage, feed, stage.tracker(feed, PUSH_EVENTS_DURABLE="true"), emails)
        if (stored := await count()) != EVENTS_OF_AN_EMAIL * emails:
            raise RuntimeError(f"{stored} push events of {emails} emails are in the stream")
    return sample


async def _take(stage: Stage, feed: Feed, taker: AbstractAsyncContextManager[Program], emails: int) -> Sample:
    group_id = str(uuid4())
    email_ids = await buckets.fill_group(stage.caller, group_id, emails)
    return replace(await _empty(feed, taker, mails.engagement(group_id, email_ids)), peak_mb=None)


async def _empty(feed: Feed, taker: AbstractAsyncContextManager[Program], bodies: list[str]) -> Sample:
    await feed.hold(bodies)
    async with taker as running:
        cpu = proc.cpu_seconds([running.pid])
        await feed.release()
        emptied = await feed.until_empty()
        cpu = proc.cpu_seconds([running.pid]) - cpu
        return replace(row.of_rate(emptied.latencies, emptied.seconds, cpu), peak_mb=proc.peak_mb([running.pid]))

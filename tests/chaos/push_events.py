# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Durable push events: trackers are killed all the time, the stream is full and without a leader for a while.

The consumer reads when all is over: each event must be in the stream once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import nats
from nats.js.api import DiscardPolicy, StreamConfig

from shared import contract
from tests.chaos.experiment import Result
from tests.stack import nats_server, ses_events, sqs_endpoint
from tests.system import outcome, processes
from tests.tracker.examples import stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from tests.stack.nats_server import NatsServer
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tests.system.processes import Replica

GROUP = "group"
KINDS = {
    "delivery": ses_events.delivery,
    "open": ses_events.open_,
    "click": ses_events.click,
    "bounce": ses_events.bounce,
}
REPLICAS = 2
PAUSE_SECONDS = (0.3, 1.2)  # between two kills; a tracker starts in about 0.3 s
AWAY_SECONDS = 4.0
EMPTY_SECONDS = 180.0
READ_SECONDS = 10.0


class _Stage(NamedTuple):
    nodes: Sequence[NatsServer]
    client: Client
    sqs: SqsEndpoint
    trackers: Sequence[Replica]

    @property
    def js(self) -> JetStreamContext:
        """JetStream, also for calls during an election."""
        return self.client.jetstream(timeout=READ_SECONDS)


async def run(seed: int, events: int, kills: int, report: Callable[[str], None], *, nodes: int = 3) -> Result:
    """Send events in portions, kill a tracker after each, and compare the stream with the events."""
    chance = random.Random(f"push events {seed}")  # noqa: S311 - a seed is the point
    async with _stage(nodes) as stage:
        expected = await _fill(stage, events)
        portions = [expected[number::kills] for number in range(kills)]
        for number, portion in enumerate(portions):
            _send(stage.sqs, portion)
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
            replica = chance.choice(stage.trackers)
            report(f"kill {replica.name}")
            replica.kill()
            stage.sqs.redeliver()  # what the killed one held, and what the other one holds
            if number == kills // 3:
                await _while_full(stage, report)
            if number == 2 * kills // 3 and nodes > 1:
                await _without_leader(stage, report)
        await asyncio.gather(*(replica.wait_until_ready() for replica in stage.trackers))
        stage.sqs.redeliver()
        await stage.sqs.wait_until_empty(EMPTY_SECONDS)
        found = await _read(stage.js)
        restarts = sum(replica.restarts for replica in stage.trackers)
    return Result(
        acknowledged=found.total(), errors={}, unanswered=0, restarts=restarts, problems=_problems(expected, found)
    )


def _problems(expected: Sequence[str], found: Counter[str]) -> list[str]:
    return [
        *outcome.line("events that are not in the stream", set(expected) - set(found)),
        *outcome.line("events that are in the stream more than once", (one for one in found if found[one] > 1)),
        *outcome.line("events in the stream that were not sent", set(found) - set(expected)),
    ]


async def _fill(stage: _Stage, events: int) -> list[str]:
    """Write the records of enough emails; return the ids of the push events of all their events."""
    bucket = await stage.js.key_value(contract.EMAIL_RECIPIENTS_BUCKET)
    email_ids = [str(UUID(int=number)) for number in range(events // len(KINDS))]
    for start in range(0, len(email_ids), 100):
        some = email_ids[start : start + 100]
        await asyncio.gather(*(bucket.put(one, stored(email_id=one, group_id=GROUP)) for one in some))
    return [f"{email_id}/{kind}/{kind}-{email_id}" for email_id in email_ids for kind in KINDS]


def _send(sqs: SqsEndpoint, message_ids: Sequence[str]) -> None:
    now = datetime.now(UTC)
    for message_id in message_ids:
        email_id, kind, event_id = message_id.split("/")
        sqs.send(ses_events.notification(KINDS[kind](f"{GROUP}/{email_id}", now), event_id))


async def _while_full(stage: _Stage, report: Callable[[str], None]) -> None:
    report(f"the stream is full for {AWAY_SECONDS} s")
    info = await stage.js.stream_info(contract.PUSH_EVENTS_STREAM)
    await stage.js.update_stream(_config(info.config.num_replicas or 1, max_msgs=info.state.messages + 10))
    await asyncio.sleep(AWAY_SECONDS)
    await stage.js.update_stream(_config(info.config.num_replicas or 1))


async def _without_leader(stage: _Stage, report: Callable[[str], None]) -> None:
    report(f"no stream has a leader for {AWAY_SECONDS} s")
    _, *others = stage.nodes
    await asyncio.gather(*(node.kill() for node in others))
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.gather(*(node.start() for node in others))
    await nats_server.wait_for_leader(stage.nodes, timeout=60)


async def _read(js: JetStreamContext) -> Counter[str]:
    """Return how often each id is in the stream, as a consumer that was away until now sees it."""
    subscription = await js.subscribe(
        "lfx.email-service.*", stream=contract.PUSH_EVENTS_STREAM, ordered_consumer=True, pending_msgs_limit=-1
    )
    left = (await js.stream_info(contract.PUSH_EVENTS_STREAM)).state.messages
    found: Counter[str] = Counter()
    while left:
        msg = await subscription.next_msg(timeout=READ_SECONDS)
        left = msg.metadata.num_pending
        found[(msg.headers or {})[contract.MESSAGE_ID_HEADER]] += 1
    return found


def _config(replicas: int, max_msgs: int = -1) -> StreamConfig:
    return StreamConfig(
        name=contract.PUSH_EVENTS_STREAM,
        subjects=list(contract.PUSH_EVENT_SUBJECTS),
        num_replicas=replicas,
        max_msgs=max_msgs,
        discard=DiscardPolicy.NEW,
        duplicate_window=600,
    )


@asynccontextmanager
async def _stage(size: int) -> AsyncIterator[_Stage]:
    async with _servers(size) as nodes, sqs_endpoint.running() as sqs:
        urls = [node.url for node in nodes]
        client = await nats.connect(urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore)
        try:
            await processes.create_buckets(client, replicas=size)
            await client.jetstream(timeout=READ_SECONDS).add_stream(_config(size))
            variables = {"PUSH_EVENTS_DURABLE": "true", "LOG_LEVEL": "warn"}
            trackers = [processes.tracker(one, ",".join(urls), sqs, **variables) for one in range(1, REPLICAS + 1)]
            async with processes.running(*trackers):
                yield _Stage(nodes, client, sqs, trackers)
        finally:
            await client.close()


@asynccontextmanager
async def _servers(size: int) -> AsyncIterator[Sequence[NatsServer]]:
    if size > 1:
        async with nats_server.cluster(size) as nodes:
            yield nodes
    else:
        async with nats_server.running() as node:
            yield [node]


async def _ignore(_error: Exception) -> None:
    """Ignore the outages, which are intended."""

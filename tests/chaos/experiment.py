# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One experiment: cluster, processes and callers are started, disorder is made, and the outcome is compared."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import nats

from tests.chaos.disorder import Disorder
from tests.stack import nats_server, smtp_server, sqs_endpoint
from tests.stack.waiting import until
from tests.system import outcome, processes
from tests.system.callers import Callers
from tests.system.outcome import Facts
from tests.system.requests import Requests
from tests.system.ses import Ses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from nats.aio.client import Client

    from tests.stack.nats_server import NatsServer
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tests.system.processes import Replica

CALLERS = 12
CALLER_PAUSE_SECONDS = 0.0  # between two emails
FEWEST = 50  # emails that are acknowledged before an experiment ends, however slow the machine is
FEWEST_SECONDS = 120.0
GROUPS = 4
NODES = 3
REPLICAS = 2
ROLLING_PATIENCE_SECONDS = 10.0
PATIENCE_SECONDS = 3.0
VISIBILITY_SECONDS = 5.0  # of messages that a killed tracker leaves behind
EMPTY_SECONDS = 90.0
ANALYTICS_SECONDS = 0.1
RELAY = {
    # Longer than any election: a record that is only kept in memory is lost with a relay that is killed.
    "SEND_RETRY_SECONDS": "20",
    "SMTP_TIMEOUT_SECONDS": "2",  # after both and 10 s more, a repeat learns that a killed relay left its key
}


TRACKER: dict[str, str] = {}


class Result(NamedTuple):
    """How an experiment ended; `problems` is empty if every promise was kept."""

    acknowledged: int
    errors: dict[str, int]
    unanswered: int
    restarts: int
    problems: list[str]


class _Stage(NamedTuple):
    nodes: Sequence[NatsServer]
    client: Client
    requests: Requests
    smtp: SmtpServer
    sqs: SqsEndpoint
    relays: Sequence[Replica]
    trackers: Sequence[Replica]


async def with_keys(seed: int, seconds: float, report: Callable[[str], None]) -> Result:
    """Kill everything; the callers repeat under an idempotency key until they have an answer."""
    async with _stage() as stage:
        callers = _callers(stage, with_keys=True)
        replicas = [*stage.relays, *stage.trackers]
        disorder = Disorder(seed, stage.nodes, replicas, replicas, report)
        return await _experiment(stage, callers, disorder.run(seconds))


async def without_keys(seed: int, seconds: float, report: Callable[[str], None]) -> Result:
    """Kill nodes and trackers, terminate relays; the callers do not repeat."""
    async with _stage() as stage:
        callers = _callers(stage, with_keys=False)
        replicas = [*stage.relays, *stage.trackers]
        disorder = Disorder(seed, stage.nodes, replicas, stage.trackers, report)
        return await _experiment(stage, callers, disorder.run(seconds))


async def roll_out(restarts: int, report: Callable[[str], None]) -> Result:
    """Terminate one process after the other, each once the one before is ready again; no caller may see an error."""
    async with _stage(patience=ROLLING_PATIENCE_SECONDS) as stage:
        callers = _callers(stage, with_keys=False)

        async def roll() -> None:
            replicas = [*stage.relays, *stage.trackers]
            for number in range(restarts):
                replica = replicas[number % len(replicas)]
                report(f"restart {replica.name}")
                await replica.restart()

        result = await _experiment(stage, callers, roll())
        seen = [f"{count} callers saw {error!r}" for error, count in result.errors.items()]
        lost = [f"{result.unanswered} requests had no answer"] if result.unanswered else []
        return result._replace(problems=[*seen, *lost, *result.problems])


def _callers(stage: _Stage, *, with_keys: bool) -> Callers:
    return Callers(
        stage.requests, count=CALLERS, groups=GROUPS, with_key=lambda _: with_keys, pause=CALLER_PAUSE_SECONDS
    )


async def _experiment(stage: _Stage, callers: Callers, disorder: object) -> Result:
    ses = Ses(stage.smtp, stage.sqs)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ses.run())
        sending = tasks.create_task(callers.run())
        asking = tasks.create_task(_ask_for_analytics(stage.requests, callers.groups))
        await disorder  # type: ignore[misc] # a coroutine
        await nats_server.wait_for_leader(stage.nodes)
        await until(lambda: len(callers.acknowledged) > FEWEST, timeout=FEWEST_SECONDS)
        callers.stop()
        await sending
        asking.cancel()
        ses.stop()
    await asyncio.gather(*(replica.wait_until_ready() for replica in [*stage.relays, *stage.trackers]))
    stage.sqs.redeliver()  # killed trackers left messages that would come back after a minute
    await stage.sqs.wait_until_empty(EMPTY_SECONDS)
    problems = await outcome.problems(
        stage.client, stage.requests, Facts(callers, ses, stage.smtp.mails), stage.trackers
    )
    return Result(
        acknowledged=len(callers.acknowledged),
        errors={error: count for error, count in callers.replies.items() if error != "sent"},
        unanswered=callers.unanswered,
        restarts=sum(replica.restarts for replica in [*stage.relays, *stage.trackers]),
        problems=problems,
    )


async def _ask_for_analytics(requests: Requests, group_ids: Sequence[str]) -> None:
    """Ask all the time, so that the trackers follow the buckets through every outage."""
    while True:
        for group_id in group_ids:
            await requests.analytics(group_id)
        await asyncio.sleep(ANALYTICS_SECONDS)


@asynccontextmanager
async def _stage(*, patience: float = PATIENCE_SECONDS) -> AsyncIterator[_Stage]:
    async with (
        nats_server.cluster(NODES) as nodes,
        smtp_server.running() as smtp,
        sqs_endpoint.running(visibility_timeout=VISIBILITY_SECONDS) as sqs,
    ):
        urls = [node.url for node in nodes]
        client = await nats.connect(urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore)
        try:
            await processes.create_buckets(client, replicas=NODES)
            url = ",".join(urls)
            relays = [processes.relay(number, url, smtp, **RELAY) for number in range(1, REPLICAS + 1)]
            trackers = [processes.tracker(number, url, sqs, **TRACKER) for number in range(1, REPLICAS + 1)]
            async with Requests(client, patience=patience) as requests, processes.running(*relays, *trackers):
                yield _Stage(nodes, client, requests, smtp, sqs, relays, trackers)
        finally:
            await client.close()


async def _ignore(_error: Exception) -> None:
    """Ignore the outages, which are intended."""

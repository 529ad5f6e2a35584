# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""One experiment: server, proxies, processes and callers are started, messages get faults, the outcome is compared."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import nats

from tests.faults.chance import Chance
from tests.faults.promises import Promises
from tests.faults.pushes import Pushes
from tests.faults.queries import Queries
from tests.stack import nats_proxy, nats_server, ses_events, smtp_server, sqs_endpoint
from tests.stack.waiting import until
from tests.system import outcome, processes
from tests.system.callers import Callers
from tests.system.outcome import Facts
from tests.system.requests import Requests
from tests.system.ses import Ses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.aio.client import Client

    from tests.faults.chance import Fault
    from tests.stack.nats_proxy import NatsProxy
    from tests.stack.smtp_server import SmtpServer
    from tests.stack.sqs_endpoint import SqsEndpoint
    from tests.system.processes import Replica

CALLERS = 8  # every other one uses idempotency keys
GROUPS = 4
REPLICAS = 2
RATE = 0.01
PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 15.0  # a request has 8 s, and the write of its record may begin at their end
READY_SECONDS = 10.0
POLL_SECONDS = 15.0
EMPTY_SECONDS = 90.0  # a message that is left to the queue comes again after 60 s
UNEXPECTED = frozenset({"task.failed", "request.failed", "record.failed", "nats.message_failed"})
SUPPRESSION = {"SUPPRESSION_ENABLED": "true"}
RELAY = {**SUPPRESSION, "SMTP_TIMEOUT_SECONDS": "2"}  # a repeat learns after 20 s that its key is used up


class Result(NamedTuple):
    """How an experiment ended; `problems` is empty if every promise was kept."""

    acknowledged: int
    errors: dict[str, int]
    unanswered: int
    events: int
    queries: int
    faults: list[Fault]
    problems: list[str]
    logs: dict[str, list[dict[str, object]]]

    @property
    def unexpected(self) -> Counter[str]:
        """How often each log event of an error that no code expected was logged."""
        events = (line.get("msg") for lines in self.logs.values() for line in lines)
        return Counter(str(event) for event in events if event in UNEXPECTED)


class _Stage(NamedTuple):
    client: Client
    requests: Requests
    smtp: SmtpServer
    sqs: SqsEndpoint
    proxies: dict[str, NatsProxy]
    relays: Sequence[Replica]
    trackers: Sequence[Replica]


async def run(seed: int, seconds: float, *, rate: float = RATE, pause: float = PAUSE_SECONDS) -> Result:
    """Give messages faults for a while under load; each caller rests for `pause` seconds after a reply."""
    async with _stage() as stage:
        chances = {name: Chance(seed, name, rate=rate) for name in stage.proxies}
        load = _Load(stage, seed, pause)
        await load.pushes.subscribe(stage.client)
        async with asyncio.TaskGroup() as tasks:
            load.start(tasks)
            for name, proxy in stage.proxies.items():
                proxy.decides = chances[name]
            await asyncio.sleep(seconds)
            for proxy in stage.proxies.values():
                proxy.decides = proxy.rules
            await load.stop()
        problems = [*await _unwell(stage), *await _broken(stage, load, list(chances.values()))]
    return Result(
        acknowledged=len(load.callers.acknowledged),
        errors={error: count for error, count in load.callers.replies.items() if error != "sent"},
        unanswered=load.callers.unanswered,
        events=len(stage.sqs.deleted),
        queries=load.queries.answers,
        faults=sorted(fault for chance in chances.values() for fault in chance.faults),
        problems=problems,
        logs={replica.name: replica.logs for replica in [*stage.relays, *stage.trackers]},
    )


class _Load:
    """The callers, the events and the queries of an experiment."""

    def __init__(self, stage: _Stage, seed: int, pause: float) -> None:
        self.callers = Callers(
            stage.requests, count=CALLERS, groups=GROUPS, with_key=lambda number: number % 2 == 0, pause=pause
        )
        self.ses = Ses(stage.smtp, stage.sqs)
        self.queries = Queries(stage.requests, self.callers, seed, pause)
        self.pushes = Pushes()
        self._sending: asyncio.Task[None] | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Send, report events and ask until `stop`."""
        tasks.create_task(self.ses.run())
        tasks.create_task(self.queries.run())
        self._sending = tasks.create_task(self.callers.run())

    async def stop(self) -> None:
        """Begin nothing else; events are reported until the last caller has its answer."""
        assert self._sending, "started"
        self.callers.stop()
        self.queries.stop()
        await self._sending
        self.ses.stop()


async def _broken(stage: _Stage, load: _Load, chances: Sequence[Chance]) -> list[str]:
    touched = {one for chance in chances for one in chance.touched}
    repeated = {one for chance in chances for one in chance.repeated}
    promises = Promises(stage.requests, load.pushes, load.queries, touched=touched, repeated=repeated)
    facts = Facts(load.callers, load.ses, stage.smtp.mails)
    return await outcome.problems(stage.client, stage.requests, facts, stage.trackers, promises)


def by_name(faults: Sequence[Fault]) -> Counter[str]:
    """Return how often each fault happened."""
    return Counter(fault.name for fault in faults)


async def _unwell(stage: _Stage) -> list[str]:
    """Return the processes that ended or hang, and the messages that are not settled."""
    replicas = [*stage.relays, *stage.trackers]
    unready: list[str] = []
    for replica in replicas:
        try:
            await replica.wait_until_ready(READY_SECONDS)
        except TimeoutError:
            unready.append(replica.name)
    idle = await _not_polling(stage)
    left: list[str] = []
    if not idle:
        try:
            await stage.sqs.wait_until_empty(EMPTY_SECONDS)
        except TimeoutError as error:
            left.append(str(error))
    return [
        *outcome.line("processes that have ended", (one.name for one in replicas if one.restarts)),
        *outcome.line("processes whose /readyz is not 200", unready),
        *outcome.line("trackers that do not poll SQS", idle),
        *outcome.line("messages left in the queue", left),
    ]


async def _not_polling(stage: _Stage) -> list[str]:
    """Return the trackers that do not call ReceiveMessage again, while messages end their long polls."""
    before = len(stage.sqs.requests)

    def silent() -> list[str]:
        later = [call.authorization for call in stage.sqs.requests[before:] if call.action == "ReceiveMessage"]
        names = [f"tracker-{number}" for number in range(1, REPLICAS + 1)]
        return [name for name in names if not any(f"={name}/" in one for one in later)]

    def look() -> list[str]:
        if stage.sqs.visible < REPLICAS:
            stage.sqs.send(ses_events.notification({"eventType": "Send"}))  # a type that is not counted
        return silent()

    try:
        await until(look, lambda names: not names, timeout=POLL_SECONDS)
    except TimeoutError:
        return silent()
    return []


@asynccontextmanager
async def _stage() -> AsyncIterator[_Stage]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server.running())
        smtp = await stack.enter_async_context(smtp_server.running())
        sqs = await stack.enter_async_context(sqs_endpoint.running())
        client = await stack.enter_async_context(await nats.connect(server.url))
        await processes.create_buckets(client)
        requests = await stack.enter_async_context(Requests(client, patience=PATIENCE_SECONDS))
        numbers = range(1, REPLICAS + 1)
        names = [f"{kind} {number}" for kind in ("relay", "tracker") for number in numbers]
        proxies = {name: await stack.enter_async_context(nats_proxy.running(server.url)) for name in names}
        relays = [processes.relay(number, proxies[f"relay {number}"].url, smtp, **RELAY) for number in numbers]
        trackers = [
            processes.tracker(number, proxies[f"tracker {number}"].url, sqs, **SUPPRESSION) for number in numbers
        ]
        await stack.enter_async_context(processes.running(*relays, *trackers))
        yield _Stage(client, requests, smtp, sqs, proxies, relays, trackers)

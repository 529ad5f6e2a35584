# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The same requests with few and with many records in the buckets: neither their cost nor memory may grow."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

import msgspec

from shared import contract
from shared.contract import GetEmailEngagementAnalyticsRequest, GetEmailStatusRequest
from tests.bench import buckets, proc, row
from tests.bench import stage as stages
from tests.bench.caller import Request
from tests.bench.row import MEGABYTES, MILLISECONDS, TIMES, Collected, Sample
from tests.bench.scenarios import send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from tests.bench.row import Row
    from tests.bench.stage import Stage

FEW: Final = 20_000
GROUP: Final = 1_000
FIRST_QUERIES: Final = 5  # in each run, of groups that were not asked for before
AGAIN: Final = 50
PAGES: Final = 30
PAGE: Final = 500
PAUSE_SECONDS: Final = 12.0  # nats-server keeps a block of 8 MB in memory for 10 s after it was read


class Filled(NamedTuple):
    """A stage with a number of records, in groups of one size, and both services."""

    stage: Stage
    records: int
    groups: dict[str, list[str]]
    asked: set[str]
    relay: int
    tracker: int

    async def send(self) -> Sample:
        """Send emails, each in a group of its own."""
        count = self.stage.options.count(2_000)
        return await self._load(send.requests(count), self.stage.options.callers, self.relay)

    async def lookup(self) -> Sample:
        """Ask for the status of recent emails, chosen at random."""
        recent = [email_id for group_id in self.recent for email_id in self.groups[group_id]]
        some = random.choices(recent, k=self.stage.options.count(5_000))  # noqa: S311
        return await self._look_up(some, callers=32)

    async def first_count(self) -> Sample:
        """Ask for the analytics of recent groups for the first time."""
        unasked = [group_id for group_id in self.recent if group_id not in self.asked]
        some = (unasked or self.recent)[:FIRST_QUERIES]
        self.asked.update(some)
        return await self._count(some)

    async def count_again(self) -> Sample:
        """Ask for the analytics of one group repeatedly."""
        return await self._count(repeat(next(iter(self.asked)), AGAIN))

    async def page(self) -> Sample:
        """Ask for a page of recent groups, chosen at random."""
        return await self._pages(random.choices(self.recent, k=self.stage.options.count(PAGES)))  # noqa: S311

    async def old_page(self) -> Sample:
        """Ask for a page of one old group."""
        return await self._pages([self._old()])

    async def old_lookup(self) -> Sample:
        """Ask for the status of one old email."""
        return await self._look_up([self.groups[self._old()][0]], callers=1)

    @property
    def recent(self) -> list[str]:
        """The groups that were written last: the same number with few and with many records."""
        return list(self.groups)[-FEW // GROUP :]

    def _old(self) -> str:
        return random.choice(list(self.groups)[: len(self.groups) // 2])  # noqa: S311

    async def _look_up(self, email_ids: Iterable[str], callers: int) -> Sample:
        questions = (GetEmailStatusRequest(email_id=one) for one in email_ids)
        return await self._ask(contract.GET_EMAIL_STATUS_SUBJECT, questions, callers)

    async def _pages(self, group_ids: Iterable[str]) -> Sample:
        questions = (GetEmailStatusRequest(group_id=one, offset=0, limit=PAGE) for one in group_ids)
        return await self._ask(contract.GET_EMAIL_STATUS_SUBJECT, questions, callers=1)

    async def _count(self, group_ids: Iterable[str]) -> Sample:
        questions = (GetEmailEngagementAnalyticsRequest(group_id=one) for one in group_ids)
        return await self._ask(contract.GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT, questions, callers=1)

    async def _ask(self, subject: str, questions: Iterable[msgspec.Struct], callers: int) -> Sample:
        requests = (Request(subject, msgspec.json.encode(one)) for one in questions)
        return await self._load(requests, callers, self.tracker)

    async def _load(self, requests: Iterable[Request], callers: int, service: int) -> Sample:
        load = await self.stage.caller.load(requests, callers, [service, self.stage.nats_pid])
        return row.of_latency(load.latencies, load.cpu_seconds)


CASES: Final[dict[str, Callable[[Filled], Awaitable[Sample]]]] = {
    "send": Filled.send,
    "lookup": Filled.lookup,
    f"analytics of {GROUP:,}, first": Filled.first_count,
    f"analytics of {GROUP:,}, again": Filled.count_again,
    f"page, {PAGE} of {GROUP:,}": Filled.page,
}
AFTER_A_PAUSE: Final[dict[str, Callable[[Filled], Awaitable[Sample]]]] = {
    "page of an old group, after a pause": Filled.old_page,
    "lookup of an old email, after a pause": Filled.old_lookup,
}


async def run(stage: Stage) -> list[Row]:
    """Growth: the same requests and the memory with few and with many records, asked in turn."""
    collected, options = Collected(), stage.options
    async with stages.running(options) as second, AsyncExitStack() as stack:
        few = await stack.enter_async_context(_filled(stage, options.count(FEW)))
        many = await stack.enter_async_context(_filled(second, options.count(options.records)))
        for _ in range(options.runs):
            for case, measure in CASES.items():
                _compare(collected, case, [(one, await measure(one)) for one in (few, many)], MILLISECONDS)
            for case, measure in AFTER_A_PAUSE.items():
                await asyncio.sleep(PAUSE_SECONDS * min(1.0, options.scale))
                _compare(collected, case, [(one, await measure(one)) for one in (few, many)], MILLISECONDS)
            for case, amount in (("relay", _relay), ("tracker", _tracker), ("nats-server", _nats), ("disk", _disk)):
                _compare(collected, case, [(one, amount(one)) for one in (few, many)], MEGABYTES)
    return collected.rows()


@asynccontextmanager
async def _filled(stage: Stage, records: int) -> AsyncIterator[Filled]:
    size = stage.options.count(GROUP)
    names = [str(uuid4()) for _ in range(max(1, records // size))]
    groups = {one: await buckets.fill_group(stage.caller, one, size) for one in names}
    async with stage.sink() as target, stage.relay(target) as relay, stage.tracker() as tracker:
        filled = Filled(stage, len(groups) * size, groups, set(), relay.pid, tracker.pid)
        await stage.caller.load(send.requests(stage.options.callers), stage.options.callers)  # opens the connections
        yield filled


def _compare(collected: Collected, case: str, samples: list[tuple[Filled, Sample]], unit: str) -> None:
    """Add the figures of both, and the factors by which time and CPU of the second are larger."""
    for filled, sample in samples:
        collected.add(f"{filled.records:,} records", "service", sample, case=case, unit=unit)
    (_, few), (_, many) = samples
    collected.add("ratio", "part", Sample(value=many.value / few.value), case=case, unit=TIMES)
    if few.cpu_us and many.cpu_us:
        collected.add("ratio of CPU", "part", Sample(value=many.cpu_us / few.cpu_us), case=case, unit=TIMES)


def _relay(filled: Filled) -> Sample:
    return Sample(value=proc.rss_mb(filled.relay), peak_mb=proc.peak_mb([filled.relay]))


def _tracker(filled: Filled) -> Sample:
    return Sample(value=proc.rss_mb(filled.tracker), peak_mb=proc.peak_mb([filled.tracker]))


def _nats(filled: Filled) -> Sample:
    pid = filled.stage.nats_pid
    return Sample(value=proc.rss_mb(pid), peak_mb=proc.peak_mb([pid]))


def _disk(filled: Filled) -> Sample:
    return Sample(value=filled.stage.disk_mb())

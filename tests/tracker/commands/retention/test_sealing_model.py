# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""At every moment the counts of a group are what they were, in any schedule of requests, kills, sends and events."""

from __future__ import annotations

import asyncio
import json
import operator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from tenacity import wait_none

from shared import group_index, index_writer, tracking_id
from shared.errors import KeyMissing, RevisionConflict, StoreUnavailable
from shared.index_writer import IndexWriter
from shared.kv import bucket as kv_bucket
from tests.tracker.commands.retention.memory import (
    BucketWithoutBatches,
    Client,
    MemoryBucket,
    MemoryFollower,
    Network,
    follow,
)
from tracker.commands.retention import sealing
from tracker.commands.retention.sealing import Place, Sealing
from tracker.events.rebuilder import NotRebuilt, Rebuilder
from tracker.events.ses_event import EngagementEvent
from tracker.queries import counts, live_counts, seal
from tracker.queries.group_counts import GroupCounts
from tracker.queries.group_reader import GroupReader
from tracker.queries.live_counts import LiveCounts
from tracker.queries.seal import Seal, Segment

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

GROUP = "g"
AGE = timedelta(days=180)
SEGMENTS = 40  # more than the emails of one example can fill

Counts = tuple[int, ...]
some = st.integers(0, 50)
which = st.integers(0, 1)


class Model(RuleBasedStateMachine):
    """Relays, trackers and two retentions on one group. `sent` is the truth: each email with its latest counts."""

    bucket: ClassVar[type[MemoryBucket]] = MemoryBucket

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.network = Network()
        self.recipients = self.bucket(self.network, "recipients")
        self.index = self.bucket(self.network, "index")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.sent: dict[str, Counts] = {}
        self.sent_at: dict[str, datetime] = {}
        self.number = 0
        self.runs: list[Client | None] = [None, None]
        self.others: list[Client] = []
        self.followers: list[MemoryFollower] = []
        self.writers = [IndexWriter(self.index), IndexWriter(self.index)]  # type: ignore[arg-type]
        self.rebuilder = Rebuilder(self.recipients, self.index)  # type: ignore[arg-type]
        self.reader = GroupReader(self.recipients, self.index)  # type: ignore[arg-type]
        self.live = LiveCounts(self.reader, self.recipients, self.index, follow(self.network, self.followers))  # type: ignore[arg-type]
        self.index.on_write.append(lambda write: self._note_sent(write.key, write.value))

    def __repr__(self) -> str:
        left = [key for key, (value, _) in self.recipients.values.items() if value is not None]
        return f"<records {left}, index {self.index.values}, sent {self.sent}>"

    @initialize(emails=st.lists(st.booleans(), min_size=1, max_size=7))
    def old_emails(self, emails: list[bool]) -> None:
        """Write emails to the index by hand, some of them with events."""
        ids = [self._new_record(opened=opened) for opened in emails]
        sizes = [group_index.capacity(number) for number in range(SEGMENTS)]
        for number, size in enumerate(sizes):
            if ids:
                key = group_index.segment_key(GROUP, number)
                self.index.put(key, group_index.encode(ids[:size]))
                ids = ids[size:]
        self.now += 2 * AGE

    @rule(one=which)
    def a_run_starts(self, one: int) -> None:
        """Start a retention that does not run."""
        run = self.runs[one]
        if run is None or not run.is_running:
            self.runs[one] = self._start(f"run {one}", self._retention())

    @rule(one=which, arrived=st.integers(0, 3))
    def a_run_is_killed(self, one: int, arrived: int) -> None:
        """Kill it with any of its requests under way."""
        run = self.runs[one]
        if run and run.is_running:
            self.network.kill(run, arrived)
            self._settle()

    @rule(picks=st.lists(some, max_size=6))
    def requests_happen(self, picks: list[int]) -> None:
        """Let some requests happen."""
        for pick in picks:
            if self.network.waiting:
                self.network.let_happen(pick)
                self._settle()
                self.the_counts_are_the_truth()

    @rule(pick=some)
    def a_reply_is_lost(self, pick: int) -> None:
        """Let a request of a retention or a relay happen whose client does not get the reply."""
        if self.network.waiting:
            client = self.network.waiting[pick % len(self.network.waiting)].client
            self.network.let_happen(pick, lost=client.name.startswith(("run", "relay")))
            self._settle()

    @rule(one=which)
    def an_email_is_sent(self, one: int) -> None:
        """Let a relay write a record and append its id."""
        email_id = self._new_record(opened=False)
        self.others.append(self._start("relay", self._append(self.writers[one], email_id)))

    @rule(pick=some, failed=st.booleans())
    def an_event_comes(self, pick: int, failed: bool) -> None:  # noqa: FBT001 - drawn
        """Let a tracker apply an event, also to an email that is removed."""
        email_id = f"e{pick % self.number:03}"
        self.others.append(self._start("tracker", self._apply(email_id, failed=failed)))

    @rule(pick=some)
    def a_late_event_would_rebuild_its_record(self, pick: int) -> None:
        """Let a tracker that rebuilds records get an event of an email, also of one that is removed."""
        self.others.append(self._start("tracker", self._rebuild(f"e{pick % self.number:03}")))

    @rule()
    def deletion_markers_are_purged(self) -> None:
        """Remove the traces of deleted records."""
        for key in [key for key, (value, _) in self.recipients.values.items() if value is None]:
            del self.recipients.values[key]
            self.recipients.purges += 1

    @rule(once=st.booleans())
    def counts_are_asked_for(self, once: bool) -> None:  # noqa: FBT001 - drawn
        """Ask for the counts, from the memory of a tracker or from the records."""
        self.others.append(self._start("query", self._query(once=once)))

    @rule(follower=which, count=st.integers(1, 4))
    def writes_are_delivered(self, follower: int, count: int) -> None:
        """Deliver writes to a follower that has not asked."""
        if self.followers[follower].is_lost:
            return
        self.followers[follower].deliver(count)

    @rule()
    def a_year_passes(self) -> None:
        """Let all emails become old; no relay or tracker takes so long."""
        if not any(one.is_running for one in self.others):
            self.now += 2 * AGE

    @invariant()
    def the_counts_are_the_truth(self) -> None:
        """Count from the buckets as they are at this moment."""
        assert self._counted() == self._truth(), repr(self)

    def teardown(self) -> None:
        """Let everything end; then one more run leaves no old email."""
        if not self.sent:  # Hypothesis has ended the example before its first step
            self.loop.close()
            return
        self._end_all()
        for one in [*self.others, *self.runs]:
            if one and one.task and not one.killed:
                one.task.result()
        self.now += 2 * AGE
        last = self._start("run", self._retention())
        self._end_all()
        assert last.task
        last.task.result()
        queries = [self._start("query", self._query(once=once)) for once in (True, False)]
        self._end_all()
        for query in queries:
            assert query.task
            assert query.task.result() == self._truth()
        assert self._counted() == self._truth()
        assert not [key for key, (value, _) in self.recipients.values.items() if value is not None], repr(self)
        assert not [one for segment in self._segments().values() for one in segment.email_ids]
        self.loop.run_until_complete(self.live.aclose())
        self.loop.close()

    async def _retention(self) -> None:
        work = Sealing(self.recipients, self.index, self.now - AGE, lambda *_: None)
        for number in range(SEGMENTS):
            place = Place(GROUP, number)
            await work.complete(place)
            try:
                entry = await self.index.get_from_leader(place.segment_key)
            except (KeyMissing, StoreUnavailable):
                continue
            await work.remove(place, group_index.decode(entry.value))

    async def _append(self, writer: IndexWriter, email_id: str) -> None:
        again = False
        while True:
            try:
                await writer.append(GROUP, email_id, again=again)
            except StoreUnavailable:
                again = True
            else:
                return

    async def _apply(self, email_id: str, *, failed: bool) -> None:
        while True:
            try:
                entry = await self.recipients.get_from_leader(email_id)
                record = json.loads(entry.value)
                record["failed" if failed else "opened"] = True
                record["open_count"] += not failed
                record["last_opened_at"] = self.now.isoformat()
                value = json.dumps(record).encode()

                def write(value: bytes = value, revision: int = entry.revision) -> None:
                    self.recipients.put(email_id, value, revision)
                    if email_id in self.sent:
                        self.sent[email_id] = counts.of_record(value)

                await self.network.send(write)
            except RevisionConflict:
                continue
            except KeyMissing:  # unmatched
                return
            else:
                return

    async def _rebuild(self, email_id: str) -> None:
        sent_at = self.sent_at[email_id]
        headers = [{"name": tracking_id.HEADER, "value": f"{GROUP}/{email_id}"}]
        mail = {"timestamp": sent_at.isoformat(), "headers": headers}
        event = EngagementEvent(kind="delay", email_id=email_id, event_id="late", at=self.now, mail=mail)
        with suppress(NotRebuilt, RevisionConflict):
            assert not await self.rebuilder.rebuild(email_id, [event]), "it was removed"

    async def _query(self, *, once: bool) -> Counts:
        least = self._truth()
        answer = await (self.live._full_count(GROUP, 0) if once else self.live.count(GROUP))  # noqa: SLF001 - as a large group
        counted = answer.total_sent, answer.delivered, answer.opened, answer.unique_opened, answer.failed
        assert all(map(operator.le, least, counted)), (least, counted, self._truth())
        assert all(map(operator.le, counted, self._truth())), (least, counted, self._truth())
        return counted

    def _new_record(self, *, opened: bool) -> str:
        email_id = f"e{self.number:03}"
        self.number += 1
        record = {"delivered": True, "opened": opened, "open_count": 2 * opened, "failed": False}
        value = json.dumps({"sent_at": self.now.isoformat(), **record}).encode()
        self.recipients.put(email_id, value, 0)
        self.sent_at[email_id] = self.now
        return email_id

    def _note_sent(self, key: str, value: bytes | None) -> None:
        if value and not group_index.is_seal(key):
            for one in group_index.decode(value):
                self.sent.setdefault(one, counts.of_record(self.recipients.read(one).value))

    def _truth(self) -> Counts:
        return len(self.sent), *map(sum, zip(counts.NOTHING, *self._indexed(), strict=True))

    def _indexed(self) -> Iterator[Counts]:
        return iter(self.sent.values())

    def _segments(self) -> dict[int, Segment]:
        values = {key: value for key, (value, _) in self.index.values.items() if value is not None}
        numbers = {group_index.segment_number(key) for key in values}
        return {
            number: Segment(
                group_index.decode(values.get(group_index.segment_key(GROUP, number), b"[]")),
                seal.decode(values.get(group_index.seal_key(GROUP, number), seal.encode(Seal()))),
            )
            for number in numbers
        }

    def _counted(self) -> Counts:
        group = GroupCounts()
        for one in group.put_segments(self._segments()).new:
            value, revision = self.recipients.values.get(one, (None, 0))
            if value is not None:
                group.put(one, revision, counts.of_record(value))
        answer = group.response(GROUP)
        return answer.total_sent, answer.delivered, answer.opened, answer.unique_opened, answer.failed

    def _start(self, name: str, work: Coroutine[Any, Any, Any]) -> Client:
        client = Client(name)

        async def start() -> None:
            client.start(work)

        self.loop.run_until_complete(start())
        self._settle()
        return client

    def _settle(self) -> None:
        """Let all clients run until each waits for a reply."""

        async def settle() -> None:
            for _ in range(25):
                await asyncio.sleep(0)

        self.loop.run_until_complete(settle())

    def _end_all(self) -> None:
        for _ in range(20_000):
            if not self.network.waiting:
                self._settle()
                if not self.network.waiting:
                    return
            self.network.let_happen(0)
            self._settle()
            self.the_counts_are_the_truth()
        raise AssertionError("a client does not end")


class WithoutBatches(Model):
    """The same on a server without batch reads, where a segment and its seal are read one after the other."""

    bucket = BucketWithoutBatches


@contextmanager
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(group_index, "FIRST_SEGMENT_IDS", 3)
        patch.setattr(group_index, "LATER_SEGMENT_IDS", 2)
        patch.setattr(sealing, "STEP_EMAILS", 2)
        patch.setattr(sealing, "SMALL_GROUP", 3)
        for module in (sealing, kv_bucket):
            patch.setattr(module, "wait_random_exponential", lambda **_: wait_none())
        patch.setattr(live_counts, "IDLE_SECONDS", 3600)
        patch.setattr(index_writer, "time", SimpleNamespace(monotonic=lambda: 0.0))
        yield


@pytest.mark.parametrize("machine", [Model, WithoutBatches])
def test_the_counts_never_change(machine: type[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    with _small(monkeypatch):
        limits = settings(max_examples=8, stateful_step_count=40, suppress_health_check=list(HealthCheck))
        run_machine(machine, settings=limits)

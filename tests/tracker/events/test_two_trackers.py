# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Two trackers on one real bucket, in any schedule of events, races and restarts, compared with a model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, ClassVar, TypeVar
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shared import contract
from shared.kv.bucket import Bucket
from shared.kv.setup import create_missing
from shared.nats import connection
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.stack import nats_server
from tests.tracker import examples
from tracker.events import engagement, records
from tracker.events.push_events import PushEvents
from tracker.events.record_updater import RecordUpdater, Verdict

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from shared.contract import EmailRecipientRecord
    from tracker.events.ses_event import EngagementEvent

events = st.lists(
    st.builds(
        examples.event,
        st.sampled_from(["delivery", "open", "click", "bounce", "complaint"]),
        st.integers(0, 3),
        st.sampled_from(["e1", "e2", "e3"]),
    ),
    max_size=6,
)
which = st.integers(0, 1)
T = TypeVar("T")


class Tracker:
    """The part of a tracker that writes to the bucket, on its own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._open = AsyncExitStack()

    async def start(self) -> None:
        """Connect again, without any state."""
        await self._open.aclose()
        opened = await self._open.enter_async_context(connection.opened(ProcessSettings(nats_url=self._url), "tracker"))
        inbox = await self._open.enter_async_context(Inbox(opened))
        await create_missing(opened, [contract.EMAIL_RECIPIENTS_BUCKET])
        self.bucket = Bucket(inbox, opened, contract.EMAIL_RECIPIENTS_BUCKET)
        self.updater = RecordUpdater(self.bucket, PushEvents(opened))

    async def stop(self) -> None:
        """Disconnect."""
        await self._open.aclose()


class TwoTrackers(RuleBasedStateMachine):
    """The model is the pure function applied to a record in memory, in any order."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.email_id = str(uuid4())
        self.trackers = [Tracker(self.url), Tracker(self.url)]
        self.model: EmailRecipientRecord = examples.record(email_id=self.email_id)

    @initialize()
    def write_the_first_record(self) -> None:
        """Write it in the same way as the relay."""
        for tracker in self.trackers:
            self._run(tracker.start())
        self._run(self.trackers[0].bucket.create(self.email_id, records.encode(self.model)))

    @rule(tracker=which, some=events)
    def one_tracker_applies(self, tracker: int, some: list[EngagementEvent]) -> None:
        """Apply a batch, or a replay of earlier events."""
        self._run(self._apply(tracker, some))
        self._compare(some)

    @rule(some=events, others=events)
    def both_apply_at_once(self, some: list[EngagementEvent], others: list[EngagementEvent]) -> None:
        """Let both write the same revision, with events that both have."""
        self._run(self._race(some, others))
        self._compare([*some, *others])

    @rule(tracker=which)
    def a_tracker_restarts(self, tracker: int) -> None:
        """Restart a tracker, which loses its state."""
        self._run(self.trackers[tracker].start())

    def teardown(self) -> None:
        """Disconnect; the record stays, since each run has another one."""
        for tracker in self.trackers:
            self._run(tracker.stop())

    async def _race(self, some: Sequence[EngagementEvent], others: Sequence[EngagementEvent]) -> None:
        await asyncio.gather(self._apply(0, some), self._apply(1, others), self._apply(0, others))

    async def _apply(self, tracker: int, some: Sequence[EngagementEvent]) -> None:
        assert (await self.trackers[tracker].updater.apply(self.email_id, some)).verdict is Verdict.SETTLED

    def _compare(self, applied: Sequence[EngagementEvent]) -> None:
        for event in applied:
            self.model = engagement.apply(self.model, event)
        stored = self._run(self.trackers[0].bucket.get_from_leader(self.email_id))
        assert stored.value == records.encode(self.model)

    def _run(self, work: Coroutine[object, object, T]) -> T:
        return self.loop.run_until_complete(work)


def test_two_trackers_in_any_schedule_end_where_the_model_ends() -> None:
    async def machine_on(url: str) -> None:
        TwoTrackers.url = url
        TwoTrackers.loop = asyncio.new_event_loop()
        limits = settings(max_examples=15, stateful_step_count=15)
        await asyncio.to_thread(run_state_machine_as_test, TwoTrackers, settings=limits)
        TwoTrackers.loop.close()

    async def main() -> None:
        async with nats_server.running() as server:
            await machine_on(server.url)

    asyncio.run(main())

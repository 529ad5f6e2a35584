# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies saved messages with the modules that apply live ones."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from tracker.commands.json_documents import Broken
from tracker.commands.replay import saved_messages
from tracker.events.record_updater import Verdict
from tracker.events.ses_event import Ignored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tracker.commands.replay.saved_messages import SavedMessage
    from tracker.events.record_updater import Applied
    from tracker.events.ses_event import EngagementEvent

    Apply = Callable[[int, EngagementEvent], Awaitable["ReplayResult"]]
    """Applies the event of a line, or finds out what it would do."""
    ApplyEvents = Callable[[str, Sequence[EngagementEvent]], Awaitable[Applied]]

Outcome = Literal["applied", "duplicate", "unmatched", "ignored", "malformed", "failed"]

CONCURRENCY: Final = 16  # emails
PATIENCE_SECONDS: Final = 30.0  # with a KV that does not answer; then no further event is tried
NOT_TRIED: Final = "not tried because KV did not answer"
NO_RECORD: Final = "there is no record of this email"
REPEATED: Final = frozenset({Verdict.AGAIN, Verdict.CONTESTED})


class ReplayResult(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The outcome of one message; `suppressed` counts the addresses that were added to the suppression list.

    `rebuilt`: the record was made from this event.
    """

    line: int
    kind: str = ""
    email_id: str = ""
    event_id: str = ""
    outcome: Outcome
    detail: str = ""
    suppressed: int = 0
    rebuilt: bool = False


async def replay(
    batch: Sequence[SavedMessage | Broken], apply: Apply, ending: asyncio.Event
) -> list[ReplayResult | None]:
    """Apply the events of several emails concurrently, those of one email in order.

    Return the result of each message; None for those that were not started before `ending` was set.
    """
    results: list[ReplayResult | None] = [None] * len(batch)
    by_email: dict[str, list[tuple[int, EngagementEvent]]] = {}
    for at, message in enumerate(batch):
        read = _read(message)
        if isinstance(read, ReplayResult):
            results[at] = read
        else:
            by_email.setdefault(read.email_id, []).append((at, read))
    slots = asyncio.Semaphore(CONCURRENCY)

    async def work(events: Sequence[tuple[int, EngagementEvent]]) -> None:
        async with slots:
            for at, event in events:
                if ending.is_set():
                    return
                results[at] = await apply(batch[at].line, event)

    await asyncio.gather(*map(work, by_email.values()))
    return results


class Live:
    """Applies an event as the tracker does, and repeats while KV does not answer."""

    def __init__(self, apply: ApplyEvents, ending: asyncio.Event) -> None:
        """Apply with `apply`; repeat nothing after `ending` is set."""
        self._apply = apply
        self._ending = ending
        self._answered_at = time.monotonic()
        self._has_stopped = False

    async def __call__(self, line: int, event: EngagementEvent) -> ReplayResult:
        """Apply an event."""
        if self._has_stopped:
            return result(line, event, "failed", NOT_TRIED)
        applied = await self._until_settled(event)
        outcome, detail = _judged(applied)
        answer = result(line, event, outcome, detail, applied.suppressed)
        return msgspec.structs.replace(answer, rebuilt=True) if applied.rebuilt else answer

    async def _until_settled(self, event: EngagementEvent) -> Applied:
        """Return the sum of all tries: an earlier one may have written the record, and only the last one the list."""
        new, rebuilt = 0, False

        async def apply() -> Applied:
            nonlocal new, rebuilt
            applied = await self._apply(event.email_id, [event])
            new, rebuilt = max(new, applied.new), rebuilt or applied.rebuilt
            return msgspec.structs.replace(applied, new=new, rebuilt=rebuilt)

        applied: Applied = await AsyncRetrying(
            retry=retry_if_result(lambda applied: applied.verdict in REPEATED),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            stop=self._stops,
            sleep=self._pause,
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )(apply)
        if applied.verdict not in REPEATED:
            self._answered_at = time.monotonic()
        return applied

    def _stops(self, state: RetryCallState) -> bool:
        if time.monotonic() - max(state.start_time, self._answered_at) >= PATIENCE_SECONDS:
            self._has_stopped = True
        return self._has_stopped or self._ending.is_set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()


def result(line: int, event: EngagementEvent, outcome: Outcome, detail: str = "", suppressed: int = 0) -> ReplayResult:
    """Return the result of an event."""
    return ReplayResult(
        line=line,
        kind=event.kind,
        email_id=event.email_id,
        event_id=event.event_id,
        outcome=outcome,
        detail=detail,
        suppressed=suppressed,
    )


def _read(message: SavedMessage | Broken) -> EngagementEvent | ReplayResult:
    if isinstance(message, Broken):
        return ReplayResult(line=message.line, outcome="malformed", detail=message.why)
    event = saved_messages.event_of(message)
    if isinstance(event, Ignored):
        outcome: Outcome = "ignored" if event.is_expected else "malformed"
        return ReplayResult(line=message.line, outcome=outcome, detail=event.reason)
    return event


def _judged(applied: Applied) -> tuple[Outcome, str]:
    match applied.verdict:
        case Verdict.UNMATCHED:
            return "unmatched", applied.error or NO_RECORD
        case Verdict.SETTLED if not applied.error:
            return "applied" if applied.new else "duplicate", ""
        case _:
            return "failed", applied.error or "KV does not answer"

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Applies saved messages as the process applies live ones."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from tracker.commands.json_documents import Broken
from tracker.commands.replay import saved_messages as replay_file
from tracker.events.record_updater import RecordUpdater, Verdict
from tracker.events.ses_event import Ignored
from tracker.events.suppressor import Suppressor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.kv.bucket import Bucket
    from tracker.commands.replay.saved_messages import Message
    from tracker.events.record_updater import Announces
    from tracker.events.ses_event import EngagementEvent

OutcomeName = Literal["applied", "duplicate", "unmatched", "ignored", "malformed", "failed"]

AT_ONCE: Final = 16
PATIENCE_SECONDS: Final = 30.0  # with KV; then it is not asked any more
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 5.0
NOT_TRIED: Final = "not tried, since KV did not answer"


class Outcome(msgspec.Struct, frozen=True):
    """What became of an event, or would; `suppressed` counts the addresses that went into the suppression list."""

    outcome: OutcomeName
    detail: str = ""
    suppressed: int = 0


class Result(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The same with the place in the file, and what is known of the event."""

    line: int
    kind: str = ""
    email_id: str = ""
    event_id: str = ""
    outcome: OutcomeName
    detail: str = ""
    suppressed: int = 0


class Applies(Protocol):
    """What happens to an event."""

    async def apply(self, event: EngagementEvent) -> Outcome: ...  # noqa: D102

    def end(self) -> None: ...  # noqa: D102


class Replayer:
    """Hands messages on: some emails at once, the events of one email in order."""

    def __init__(self, applying: Applies) -> None:
        """Let `applying` do what is to be done."""
        self._applying = applying
        self._is_ending = False
        self._slots = asyncio.Semaphore(AT_ONCE)

    def end(self) -> None:
        """Begin with no other event."""
        self._is_ending = True
        self._applying.end()

    async def replay(self, batch: Sequence[Message | Broken]) -> list[Result | None]:
        """Return what became of each message; None where it was not begun."""
        results: list[Result | None] = [None] * len(batch)
        by_email: dict[str, list[tuple[int, EngagementEvent]]] = {}
        for at, message in enumerate(batch):
            event = message if isinstance(message, Broken) else replay_file.event_of(message)
            if isinstance(event, Broken):
                results[at] = Result(line=event.line, outcome="malformed", detail=event.why)
            elif isinstance(event, Ignored):
                name: OutcomeName = "ignored" if event.is_expected else "malformed"
                results[at] = Result(line=message.line, outcome=name, detail=event.reason)
            else:
                by_email.setdefault(event.email_id, []).append((at, event))

        async def work(events: Sequence[tuple[int, EngagementEvent]]) -> None:
            async with self._slots:
                for at, event in events:
                    if self._is_ending:
                        return
                    results[at] = _result(batch[at].line, event, await self._applying.apply(event))

        await asyncio.gather(*map(work, by_email.values()))
        return results


class Live:
    """Applies an event by the rooms that apply the live ones, and tries again while KV does not answer."""

    def __init__(self, recipients: Bucket, announcer: Announces, suppressions: Bucket | None) -> None:
        """Write to `recipients`, and to `suppressions` where the list is on."""
        self._recipients = recipients
        self._announcer = announcer
        self._suppressions = suppressions
        self._ending = asyncio.Event()
        self._answered_at = time.monotonic()
        self._has_given_up = False

    def end(self) -> None:
        """Try nothing again."""
        self._ending.set()

    async def apply(self, event: EngagementEvent) -> Outcome:
        """Apply an event."""
        if self._has_given_up:
            return Outcome("failed", NOT_TRIED)
        updater = RecordUpdater(self._recipients, self._announcer)
        adding = Suppressor(updater, self._suppressions) if self._suppressions else None
        verdict = await self._until_settled(adding or updater, event)
        name, detail = _judged(verdict, updater, event)
        return Outcome(name, detail, adding.added.total() if adding else 0)

    async def _until_settled(self, updater: RecordUpdater | Suppressor, event: EngagementEvent) -> Verdict:
        pause = FIRST_PAUSE_SECONDS
        begun = time.monotonic()
        while True:
            verdict = await updater.apply(event.email_id, [event])
            if verdict not in {Verdict.AGAIN, Verdict.CONTESTED}:
                self._answered_at = time.monotonic()
                return verdict
            if time.monotonic() - max(begun, self._answered_at) >= PATIENCE_SECONDS:
                self._has_given_up = True
            if self._has_given_up or self._ending.is_set():
                return verdict
            await self._pause(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return


def _judged(verdict: Verdict, updater: RecordUpdater, event: EngagementEvent) -> tuple[OutcomeName, str]:
    match verdict:
        case Verdict.UNMATCHED:
            return "unmatched", "there is no record of this email"
        case Verdict.STUCK:
            return "failed", "the record cannot be read"
        case Verdict.SETTLED if not updater.outcomes:
            return "failed", "the record is full"
        case Verdict.SETTLED:  # the record may have been written at an earlier try
            return ("applied" if updater.outcomes[event.kind, "applied"] else "duplicate"), ""
        case _:
            return "failed", "KV does not answer"


def _result(line: int, event: EngagementEvent, outcome: Outcome) -> Result:
    return Result(
        line=line,
        kind=event.kind,
        email_id=event.email_id,
        event_id=event.event_id,
        outcome=outcome.outcome,
        detail=outcome.detail,
        suppressed=outcome.suppressed,
    )

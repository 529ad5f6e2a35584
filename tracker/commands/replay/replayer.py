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
from tracker.events.record_updater import Verdict
from tracker.events.ses_event import Ignored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker.commands.replay.saved_messages import Message
    from tracker.events.record_updater import Applied, RecordUpdater
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
    """Applies an event as the tracker does, and tries again while KV does not answer."""

    def __init__(self, updater: RecordUpdater) -> None:
        """Apply with `updater`."""
        self._updater = updater
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
        return _judged(await self._until_settled(event))

    async def _until_settled(self, event: EngagementEvent) -> Applied:
        """Return the sum of all tries: the record may have been written at an earlier one than the list."""
        pause = FIRST_PAUSE_SECONDS
        begun = time.monotonic()
        new = 0
        while True:
            applied = await self._updater.apply(event.email_id, [event])
            new = max(new, applied.new)
            if applied.verdict not in {Verdict.AGAIN, Verdict.CONTESTED}:
                self._answered_at = time.monotonic()
                return msgspec.structs.replace(applied, new=new)
            if time.monotonic() - max(begun, self._answered_at) >= PATIENCE_SECONDS:
                self._has_given_up = True
            if self._has_given_up or self._ending.is_set():
                return applied
            await self._pause(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return


def _judged(applied: Applied) -> Outcome:
    match applied.verdict:
        case Verdict.UNMATCHED:
            return Outcome("unmatched", "there is no record of this email", applied.suppressed)
        case Verdict.SETTLED if not applied.error:
            return Outcome("applied" if applied.new else "duplicate", "", applied.suppressed)
        case _:
            return Outcome("failed", applied.error or "KV does not answer", applied.suppressed)


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

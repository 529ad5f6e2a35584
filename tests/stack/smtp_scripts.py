# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What the scripted SMTP server is told to do instead of the right thing, and when."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Stage = Literal[
    "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot", "rset", "noop", "quit", "unknown"
]


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session is: sessions count from 1; `accepted` mails are those of this session."""

    stage: Stage
    session: int
    accepted: int
    line: str = ""


class Reply(msgspec.Struct, frozen=True):
    """Say this, line by line; a positive reply also does what the command asks."""

    text: str
    close: bool = False


class Close(msgspec.Struct, frozen=True):
    """Close without a word (FIN)."""


class Reset(msgspec.Struct, frozen=True):
    """Close at once (RST)."""


class Silence(msgspec.Struct, frozen=True):
    """Never answer again, and keep the connection."""


class Garbage(msgspec.Struct, frozen=True):
    """Send these bytes as they are."""

    data: bytes


class Delay(msgspec.Struct, frozen=True):
    """Wait, then do that, or the right thing."""

    seconds: float
    then: Action | None = None


class Store(msgspec.Struct, frozen=True):
    """At the final dot: keep the mail whatever is said next."""

    then: Action


Action = Reply | Close | Reset | Silence | Garbage | Delay | Store


class Script(Protocol):
    """Consulted before each answer; None: do the right thing."""

    def __call__(self, moment: Moment, /) -> Action | None:
        """Choose."""


STORE_THEN_CLOSE = Store(then=Close())
"""The mail is kept and the connection closed with no answer: the client cannot know."""


def correct(_moment: Moment) -> Action | None:
    """Do the right thing."""
    return None


def always(stage: Stage, action: Action) -> Script:
    """Do it each time a session reaches the stage."""
    return lambda moment: action if moment.stage == stage else None


def first(count: int, stage: Stage, action: Action) -> Script:
    """Do it the first times any session reaches the stage."""
    return _counted(count, stage, action, lambda _: 0)


def per_session(count: int, stage: Stage, action: Action) -> Script:
    """Do it the first times each session reaches the stage."""
    return _counted(count, stage, action, lambda moment: moment.session)


def after(mails: int, stage: Stage, action: Action) -> Script:
    """Do it in sessions that have accepted so many mails."""
    return lambda moment: action if moment.stage == stage and moment.accepted >= mails else None


def either(*scripts: Script) -> Script:
    """Ask all scripts and do what the first of them wants that wants something."""

    def script(moment: Moment) -> Action | None:
        wishes = [script(moment) for script in scripts]
        return next((wish for wish in wishes if wish is not None), None)

    return script


def _counted(count: int, stage: Stage, action: Action, whose: Callable[[Moment], int]) -> Script:
    reached: Counter[int] = Counter()

    def script(moment: Moment) -> Action | None:
        if moment.stage != stage:
            return None
        reached[whose(moment)] += 1
        return action if reached[whose(moment)] <= count else None

    return script

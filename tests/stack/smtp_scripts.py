# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Scripts for the scripted SMTP server: which wrong action it takes, and when."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Stage = Literal[
    "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "dot", "rset", "noop", "quit", "unknown"
]
"""`body`: the first line of the content has arrived, and the final dot has not; the correct action is none."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a session: sessions count from 1; `accepted` is the number of mails of this session."""

    stage: Stage
    session: int
    accepted: int
    line: str = ""


class Reply(msgspec.Struct, frozen=True):
    """Send this reply; a positive one also executes the command."""

    text: str
    close: bool = False


class Close(msgspec.Struct, frozen=True):
    """Close without a reply (FIN)."""


class Reset(msgspec.Struct, frozen=True):
    """Close at once (RST)."""


class Silence(msgspec.Struct, frozen=True):
    """Send no further reply, and keep the connection open."""


class Deaf(msgspec.Struct, frozen=True):
    """Send this reply, then read nothing more, not even the end of TLS, and keep the connection open."""

    text: str


class Garbage(msgspec.Struct, frozen=True):
    """Send these bytes unchanged."""

    data: bytes


class Delay(msgspec.Struct, frozen=True):
    """Wait, then take this action, or the correct one."""

    seconds: float
    then: Action | None = None


class Store(msgspec.Struct, frozen=True):
    """At the final dot: store the mail, then take the next action."""

    then: Action


Action = Reply | Close | Reset | Silence | Deaf | Garbage | Delay | Store


class Script(Protocol):
    """Called before each reply; None is the correct reply."""

    def __call__(self, moment: Moment, /) -> Action | None:
        """Return the action."""


STORE_THEN_CLOSE = Store(then=Close())
"""The mail is stored and the connection closed without a reply: the outcome is unknown to the client."""


def correct(_moment: Moment) -> Action | None:
    """Give the correct reply always."""
    return None


def always(stage: Stage, action: Action) -> Script:
    """Take the action each time a session reaches the stage."""
    return lambda moment: action if moment.stage == stage else None


def first(count: int, stage: Stage, action: Action) -> Script:
    """Take the action the first `times` that any session reaches the stage."""
    return _counted(count, stage, action, lambda _: 0)


def per_session(count: int, stage: Stage, action: Action) -> Script:
    """Take the action the first `times` that each session reaches the stage."""
    return _counted(count, stage, action, lambda moment: moment.session)


def after(mails: int, stage: Stage, action: Action) -> Script:
    """Take the action in sessions that have accepted this number of mails."""
    return lambda moment: action if moment.stage == stage and moment.accepted >= mails else None


def either(*scripts: Script) -> Script:
    """Take the action of the first script that returns one."""

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

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Gives messages a fault by chance, in place of the rules of a proxy. No sockets."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.faults import kinds
from tests.stack.nats_proxy import js_error, no_responders
from tests.stack.nats_rules import Planned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.stack.nats_frames import Delivery, Publication


class Fault(NamedTuple):
    """A fault that happened to one message, at a time in seconds since 1970."""

    at: float
    process: str
    kind: str
    name: str
    subject: str

    def __str__(self) -> str:
        """Return it as one line."""
        at = time.strftime("%H:%M:%S", time.gmtime(self.at)) + f"{self.at % 1:.3f}"[1:]
        return f"{at} {self.process}: {self.name} of {self.kind} {self.subject}"


class Chance:
    """The faults of one process.

    Each kind of message has a sequence of its own, which the seed decides: the n-th message of a kind has the same
    fault in each run, in any order of the kinds.
    """

    def __init__(self, seed: int, process: str, *, rate: float) -> None:
        """Give each message a fault with the probability `rate`."""
        self.faults: list[Fault] = []
        self.touched: set[str] = set()  # inboxes of callers, and push events, with a message that was lost or repeated
        self.repeated: set[str] = set()  # inboxes of callers whose request was repeated
        self._process = process
        self._rate = rate
        self._sequences = {kind: random.Random(f"{seed} {process} {kind}") for kind in kinds.FAULTS}  # noqa: S311 - a seed is the point
        self._details = random.Random(f"{seed} {process}")  # noqa: S311 - of the faults: seconds, and forms of garbling
        self._on_reply: dict[str, str] = {}  # the names of the faults by inbox

    def decide(self, publication: Publication) -> Sequence[Planned]:
        """Return what becomes of a publication of the process."""
        kind = kinds.of_publication(publication)
        name = self._draw(kind, publication.subject)
        if name in kinds.ON_REPLY:
            self._on_reply[publication.reply] = name
            return [Planned(publication)]
        if name in {"drop", "repeat"} and kind in {"reply", "push event"}:
            self.touched.add(kinds.identity(publication))
        if name == "503":
            return [Planned(no_responders()(publication))]
        if name in kinds.ERRORS:
            return [Planned(js_error(*kinds.ERRORS[name])(publication))]
        return self._plan(name, publication)

    def deliver(self, delivery: Delivery) -> Sequence[Planned]:
        """Return what becomes of a message to the process."""
        name = self._on_reply.pop(delivery.subject, "")
        if name == "garble reply":
            return [Planned(kinds.garbled(delivery, self._details))]
        if name:
            return self._plan(name, delivery)
        kind = kinds.of_delivery(delivery)
        name = self._draw(kind, delivery.subject)
        if name in {"drop", "repeat"} and kind == "request":
            self.touched.add(delivery.reply)
        if name == "repeat" and kind == "request":
            self.repeated.add(delivery.reply)
        if name == "garble":
            return [Planned(kinds.without_sequence(delivery))]
        return self._plan(name, delivery)

    def _draw(self, kind: str, subject: str) -> str:
        """Return the name of the fault of a message; empty for none."""
        if not kind:
            return ""
        chance = self._sequences[kind]
        if chance.random() >= self._rate:
            return ""
        name = chance.choice(kinds.FAULTS[kind])
        self.faults.append(Fault(time.time(), self._process, kind, name, subject))
        return name

    def _plan(self, name: str, message: Publication | Delivery) -> Sequence[Planned]:
        match name.split():
            case ["drop"] | ["lose", "reply"]:
                return []
            case ["repeat", *_]:
                return [Planned(message)] * 2
            case ["delay", *_]:
                return [Planned(message, self._details.uniform(*kinds.SHORT_SECONDS))]
            case ["late", *_]:
                return [Planned(message, self._details.uniform(*kinds.LONG_SECONDS))]
            case _:
                return [Planned(message)]

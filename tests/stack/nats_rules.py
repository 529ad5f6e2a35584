# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The rules of the proxy for the messages of both directions, each for a number of times. No sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.stack.nats_frames import Answer, Delivery, Publication


class Planned(NamedTuple):
    """A message to write after some seconds: a publication to the server, an answer or a delivery to the client."""

    message: Publication | Answer | Delivery
    after_seconds: float = 0.0


class Decides(Protocol):
    """What the proxy asks for each message; an empty plan drops it."""

    def decide(self, publication: Publication) -> Sequence[Planned]:
        """Return what becomes of a publication of the client."""

    def deliver(self, delivery: Delivery) -> Sequence[Planned]:
        """Return what becomes of a message to the client."""


class Rule(msgspec.Struct):
    """An action for publications under a subject, and its remaining count."""

    prefix: str
    times: int
    plan: Callable[[Publication], list[Planned]]
    needs_reply: bool = False

    def matches(self, publication: Publication) -> bool:
        """Return whether it applies."""
        return (
            self.times > 0
            and publication.subject.startswith(self.prefix)
            and (bool(publication.reply) or not self.needs_reply)
        )


class Rules:
    """The rules in order; the oldest rule that applies to a publication is used."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self._rules: list[Rule] = []
        self._replies: dict[str, Callable[[Delivery], list[Planned]]] = {}

    def answer(self, prefix: str, times: int, make_reply: Callable[[Publication], Answer]) -> None:
        """Add answers."""
        self._add(prefix, times, lambda request: [Planned(make_reply(request))], needs_reply=True)

    def rewrite(self, prefix: str, times: int, change: Callable[[Publication], Publication]) -> None:
        """Add changes."""
        self._add(prefix, times, lambda publication: [Planned(change(publication))])

    def lose_request(self, prefix: str, times: int) -> None:
        """Add losses of requests."""
        self._add(prefix, times, lambda _: [])

    def delay_request(self, prefix: str, times: int, seconds: float) -> None:
        """Add delays of single requests, which later ones overtake."""
        self._add(prefix, times, lambda publication: [Planned(publication, seconds)])

    def repeat_request(self, prefix: str, times: int) -> None:
        """Add repeats: the server gets the publication twice."""
        self._add(prefix, times, lambda publication: [Planned(publication)] * 2)

    def lose_reply(self, prefix: str, times: int) -> None:
        """Add losses of replies."""
        self._plan_reply(prefix, times, lambda _: [])

    def delay_reply(self, prefix: str, times: int, seconds: float) -> None:
        """Add delays of single replies."""
        self._plan_reply(prefix, times, lambda reply: [Planned(reply, seconds)])

    def rewrite_reply(self, prefix: str, times: int, change: Callable[[Delivery], Delivery]) -> None:
        """Add changes of replies of the server."""
        self._plan_reply(prefix, times, lambda reply: [Planned(change(reply))])

    def forget(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def decide(self, publication: Publication) -> Sequence[Planned]:
        """Return what becomes of a publication of the client."""
        self.published.append(publication.subject)
        rule = next((rule for rule in self._rules if rule.matches(publication)), None)
        if rule is None:
            return [Planned(publication)]
        rule.times -= 1
        return rule.plan(publication)

    def deliver(self, delivery: Delivery) -> Sequence[Planned]:
        """Return what becomes of a message to the client; call it once for each message."""
        plan = self._replies.pop(delivery.subject, None)
        return plan(delivery) if plan else [Planned(delivery)]

    def _add(
        self, prefix: str, times: int, plan: Callable[[Publication], list[Planned]], *, needs_reply: bool = False
    ) -> None:
        self._rules.append(Rule(prefix, times, plan, needs_reply))

    def _plan_reply(self, prefix: str, times: int, plan: Callable[[Delivery], list[Planned]]) -> None:
        """Forward the requests, and treat the first message to the inbox of each by `plan`."""

        def forward(request: Publication) -> list[Planned]:
            self._replies[request.reply] = plan
            return [Planned(request)]

        self._add(prefix, times, forward, needs_reply=True)

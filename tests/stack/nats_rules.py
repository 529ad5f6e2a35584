# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The rules of the proxy for the publications of a client, each for a number of times. No sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stack.nats_frames import Answer, Publication


class Rule(msgspec.Struct):
    """An action for publications under a subject, and its remaining count."""

    prefix: str
    times: int
    decide: Callable[[Publication], Publication | Answer | None]
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
        self._lost_inboxes: set[str] = set()

    def answer(self, prefix: str, times: int, make_reply: Callable[[Publication], Answer]) -> None:
        """Add answers."""
        self._rules.append(Rule(prefix, times, make_reply, needs_reply=True))

    def rewrite(self, prefix: str, times: int, change: Callable[[Publication], Publication]) -> None:
        """Add changes."""
        self._rules.append(Rule(prefix, times, change))

    def lose_request(self, prefix: str, times: int) -> None:
        """Add losses of requests."""
        self._rules.append(Rule(prefix, times, lambda _: None))

    def lose_reply(self, prefix: str, times: int) -> None:
        """Add losses of replies."""
        self._rules.append(Rule(prefix, times, self._lose_reply_to, needs_reply=True))

    def forget(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def decide(self, publication: Publication) -> Publication | Answer | None:
        """Return the publication for the server, the reply to the client, or None if it is dropped."""
        self.published.append(publication.subject)
        rule = next((rule for rule in self._rules if rule.matches(publication)), None)
        if rule is None:
            return publication
        rule.times -= 1
        return rule.decide(publication)

    def loses(self, subject: str) -> bool:
        """Return whether a message to a client is a reply to drop; call it once for each message."""
        if subject not in self._lost_inboxes:
            return False
        self._lost_inboxes.discard(subject)
        return True

    def _lose_reply_to(self, publication: Publication) -> Publication:
        self._lost_inboxes.add(publication.reply)
        return publication

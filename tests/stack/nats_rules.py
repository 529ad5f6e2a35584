# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The rules of the proxy for the publications of a client, each for a number of times. No sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.stack.nats_frames import Delayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stack.nats_frames import Answer, Publication

    Decision = Publication | Answer | Delayed | None


class Rule(msgspec.Struct):
    """An action for publications under a subject, and its remaining count."""

    prefix: str
    times: int
    decide: Callable[[Publication], Decision]
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
        self._replies: dict[str, bytes | None] = {}

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

    def garble_reply(self, prefix: str, times: int, payload: bytes) -> None:
        """Add replies that are replaced."""

        def note(publication: Publication) -> Publication:
            self._replies[publication.reply] = payload
            return publication

        self._rules.append(Rule(prefix, times, note, needs_reply=True))

    def delay_request(self, prefix: str, times: int, seconds: float) -> None:
        """Add delays of requests."""
        self._rules.append(Rule(prefix, times, lambda publication: Delayed(publication, seconds)))

    def forget(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def decide(self, publication: Publication) -> Decision:
        """Return the publication for the server, now or later, the reply to the client, or None if it is dropped."""
        self.published.append(publication.subject)
        rule = next((rule for rule in self._rules if rule.matches(publication)), None)
        if rule is None:
            return publication
        rule.times -= 1
        return rule.decide(publication)

    def replaced(self, subject: str, payload: bytes) -> bytes | None:
        """Return the payload of a message to a client, None if it is dropped; call it once for each message."""
        return self._replies.pop(subject, payload)

    def _lose_reply_to(self, publication: Publication) -> Publication:
        self._replies[publication.reply] = None
        return publication

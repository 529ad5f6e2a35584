# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What a proxy does to single deliveries of the server, also to those in the middle of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stack.nats_rules import Planned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.stack.nats_proxy import Delivery, Publication


class Meddling:
    """Forwards everything, but treats deliveries with some text in subject or headers by `plan`."""

    def __init__(self, text: bytes, times: int, plan: Callable[[Delivery], list[Planned]]) -> None:
        self.met = 0
        self._text = text
        self._times = times
        self._plan = plan

    def decide(self, publication: Publication) -> Sequence[Planned]:
        """Forward it."""
        return [Planned(publication)]

    def deliver(self, delivery: Delivery) -> Sequence[Planned]:
        """Treat the messages in question, a number of times."""
        if self._text not in delivery.subject.encode() + delivery.headers or self.met == self._times:
            return [Planned(delivery)]
        self.met += 1
        return self._plan(delivery)

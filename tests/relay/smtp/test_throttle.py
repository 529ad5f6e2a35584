# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The rate that follows from accepted and refused emails, with a simulated clock and server."""

from __future__ import annotations

import pytest

from relay.smtp.throttle import ENDED_SECONDS, SERVER_SECONDS, Throttle


class Server:
    """Accepts `rate` emails in each second of the clock."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.accepted = self.refused = 0
        self._second, self._count = -1, 0.0

    def accepts(self, now: float) -> bool:
        """Return whether an email at this time is accepted."""
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        is_accepted = self._count <= self.rate
        self.accepted += is_accepted
        self.refused += not is_accepted
        return is_accepted


def send(throttle: Throttle, server: Server, begin: float, end: float, fastest: float = 1000.0) -> None:
    """Send as fast as the throttle allows, and at most `fastest` emails a second."""
    now = begin
    while now < end:
        generation = throttle.generation
        if server.accepts(now):
            throttle.accept(now, is_binding=True)
        else:
            throttle.refuse(generation, now)
        rate = min(throttle.rate or fastest, fastest)
        now = max(now + 1 / rate, throttle.resumes_at)


@pytest.mark.parametrize("rate", [2, 14, 100, 500])
def test_most_of_the_rate_is_used_and_few_emails_are_refused(rate: int) -> None:
    throttle, server = Throttle(), Server(rate)
    send(throttle, server, 100, 160)
    assert server.refused < (server.accepted + server.refused) / 10
    assert server.accepted > 0.75 * rate * 60


def test_the_limit_ends_soon_after_the_server_accepts_everything_again() -> None:
    throttle, server = Throttle(), Server(14)
    send(throttle, server, 100, 120)
    assert 9 < throttle.rate < 18
    server.rate = 10_000
    send(throttle, server, 120, 140)
    assert throttle.rate == 0


def test_a_rate_that_falls_is_followed() -> None:
    throttle, server = Throttle(), Server(200)
    send(throttle, server, 100, 110)
    server.rate = 14
    send(throttle, server, 110, 120)
    assert throttle.rate < 20


def test_emails_that_were_on_their_way_lower_the_rate_once() -> None:
    throttle = Throttle()
    for _ in range(20):
        throttle.accept(100.1, is_binding=False)
    for _ in range(30):
        throttle.refuse(0, 100.2)
    assert (throttle.generation, throttle.rate) == (1, 16)
    for _ in range(5):  # accepted, although the refusal of others came first
        throttle.accept(100.3, is_binding=False)
    assert throttle.rate == 20
    assert throttle.resumes_at == 100.2 + SERVER_SECONDS
    assert throttle.ends_at == 100.2 + ENDED_SECONDS


def test_a_rate_for_which_no_email_waits_does_not_rise() -> None:
    throttle = Throttle()
    throttle.refuse(0, 100)
    rate = throttle.rate
    for second in range(102, 150):
        throttle.accept(second, is_binding=False)
    assert throttle.rate == rate

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the rate that the relay imposes on itself while the mail server refuses emails because of their rate.

The server does not name its rate, so the relay looks for it: an accepted email raises the rate a little, and a refusal
lowers it (additive increase, multiplicative decrease).
"""

from __future__ import annotations

from typing import Final

# While emails wait because of the limit, each accepted email raises it:
#   rate < BEYOND * refused rate:                rate += min(INCREASE, SMALL_INCREASE * refused rate)
#   else, if rate < BEYOND * accepted a second:  rate += min(FAST_INCREASE, SMALL_FAST_INCREASE * rate)
DECREASE: Final = 0.8
LEAST_PART: Final = 0.5  # of a refused rate that counts: the server may have accepted little because little was sent
INCREASE: Final = 0.045  # emails a second for each accepted email: from one refusal to the next it takes 5 seconds
SMALL_INCREASE: Final = 0.005  # of a low rate: from one refusal to the next 40 emails are accepted
BEYOND: Final = 1.25  # times the refused rate: the server's rate has risen; also times the emails that it accepts
FAST_INCREASE: Final = 0.7  # not beyond what is accepted: refusals come later than the emails that cause them
SMALL_FAST_INCREASE: Final = 0.03  # of a low rate, as above
ENDED: Final = 10.0  # times the refused rate
ENDED_SECONDS: Final = 60.0  # without a refusal
LEAST_FIRST_RATE: Final = 1.0  # the lowest rate of an account; until the server accepts an email again
LEAST_RATE: Final = 0.5
SERVER_SECONDS: Final = 1.0  # SES counts the emails of a second


class Throttle:
    """`rate` is the limit in emails a second, 0 while there is none.

    `generation` is the number of refusals that counted. Emails that were on their way at one of them do not count.
    """

    def __init__(self) -> None:
        """Begin without a limit."""
        self.generation = 0
        self.rate = 0.0
        self.resumes_at = 0.0
        self.ends_at = 0.0
        self._refused_rate = 0.0
        self._least_rate = LEAST_FIRST_RATE
        self._decreased_at = 0.0
        self._measured_until = 0.0
        self._second = 0
        self._accepted = self._accepted_before = 0  # in this second, and in the one before

    def accept(self, now: float, *, is_binding: bool) -> None:
        """Count an accepted email; raise the limit if other emails had to wait because of it."""
        self._begin_second(now)
        self._accepted += 1
        if not self.rate:
            return
        self._least_rate = LEAST_RATE
        if now < self._measured_until:  # it was on its way when the first one was refused
            self._refused_rate += 1
            self.rate = DECREASE * self._refused_rate
        elif is_binding:
            self._increase(now)

    def refuse(self, generation: int, now: float) -> None:
        """Lower the limit because of an email that was begun in `generation`; the first limit begins with a pause."""
        if generation != self.generation:
            return
        self.generation += 1
        if not self.rate:
            self._begin(now)
        elif now < self._decreased_at + SERVER_SECONDS:
            self.resumes_at = self._decreased_at + SERVER_SECONDS
        else:
            self._refused_rate = min(self.rate, max(self._accepted_in_a_second(now) + 1, LEAST_PART * self.rate))
            self._decrease(now)

    def end(self) -> None:
        """Remove the limit."""
        self.rate = self.resumes_at = 0.0

    def _begin(self, now: float) -> None:
        self._least_rate = LEAST_FIRST_RATE
        self._refused_rate = max(self._accepted_in_a_second(now), LEAST_FIRST_RATE / DECREASE)
        self.resumes_at = self._measured_until = now + SERVER_SECONDS
        self._decrease(now)

    def _decrease(self, now: float) -> None:
        self.rate = max(DECREASE * self._refused_rate, self._least_rate)
        self._decreased_at = now
        self.ends_at = now + ENDED_SECONDS

    def _increase(self, now: float) -> None:
        if self.rate < BEYOND * self._refused_rate:
            self.rate += min(INCREASE, SMALL_INCREASE * self._refused_rate)
        elif self.rate < BEYOND * self._accepted_in_a_second(now):
            self.rate += min(FAST_INCREASE, SMALL_FAST_INCREASE * self.rate)
        if self.rate > ENDED * self._refused_rate:
            self.end()

    def _accepted_in_a_second(self, now: float) -> float:
        self._begin_second(now)
        return self._accepted + self._accepted_before * (1 - (now - self._second))

    def _begin_second(self, now: float) -> None:
        elapsed = now - self._second
        if elapsed >= 1:
            self._accepted_before = self._accepted if elapsed < 2 else 0  # noqa: PLR2004 - seconds
            self._second, self._accepted = int(now), 0

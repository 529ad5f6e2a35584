# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Whether to send commands in one write (RFC 2920): some servers offer it and drop all commands but the first."""

from __future__ import annotations

import logging
import re
from typing import Final

log = logging.getLogger(__name__)

TRIAL_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 600.0
FAILURES: Final = 64  # as many connections may be lost when a server restarts

_CONFUSED = re.compile(r"50[0-4] (?!5\.1\.)|.*(pipelin|synchroni[sz])", re.IGNORECASE)  # 5.1.x: the address is wrong


class Pipelining:
    """The experience with one server that offers PIPELINING. All connections to it share this.

    The server is on trial until it has answered pipelined commands once. A server on trial has little time, and its
    first failure starts a pause: the emails are tried again with single commands, and none is lost.
    """

    def __init__(self) -> None:
        """Begin with the trial."""
        self._failures_left = 0
        self._resumes_at = 0.0

    @property
    def is_on_trial(self) -> bool:
        """Whether the server has not shown yet that it can answer pipelined commands."""
        return self._failures_left == 0

    def patience(self, seconds: float) -> float:
        """Return how long to wait for the replies; `seconds` is for any server."""
        return min(seconds, TRIAL_SECONDS) if self.is_on_trial else seconds

    def is_used(self, now: float) -> bool:
        """Return whether the next commands are pipelined."""
        return now >= self._resumes_at

    def succeed(self) -> None:
        """End the trial: each command was answered."""
        self._failures_left = FAILURES

    def fail(self, now: float, reason: str, *, is_certain: bool = False) -> None:
        """Start a pause if the server is on trial, if it has failed too often in a row, or if it is certainly wrong."""
        if not self.is_used(now):
            return
        self._failures_left = 0 if is_certain else max(0, self._failures_left - 1)
        if self.is_on_trial:
            self._resumes_at = now + PAUSE_SECONDS
            log.info("smtp.pipelining_paused", extra={"seconds": PAUSE_SECONDS, "error": reason})

    def is_confused(self, error: Exception | None) -> bool:
        """Return whether the refusal of a correct command may come from the way in which it was sent."""
        return error is not None and bool(_CONFUSED.match(str(error)))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pauses that double from try to try, with jitter, where the tries are counted by the caller."""

from __future__ import annotations

from tenacity import AsyncRetrying, RetryCallState, wait_exponential, wait_random


class Backoff:
    """The pauses between a first and a longest one, in seconds."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        """Set the bounds; the jitter comes on top and is at most half of the first pause."""
        self._wait = wait_exponential(multiplier=first_seconds, max=longest_seconds) + wait_random(0, first_seconds / 2)

    def seconds(self, tries: int) -> float:
        """Return the pause after so many tries, at least one."""
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = tries
        return self._wait(state)

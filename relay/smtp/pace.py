# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: how fast connections are opened. One growing pause for all of them spares a server that refuses or is away.

Without it 60 requests logged in 591 times within 8 s at a server that answered AUTH with 454.
"""

from __future__ import annotations

import random
from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 3.0
JITTER: Final = (0.75, 1.25)  # relays that lost the same server do not return together
AT_ONCE_AT_FIRST: Final = 2  # a burst does not overload a server that refuses connections, or emails by their rate


class Pace:
    """Counts failures since the last connection that worked.

    `generation` is the number of failures so far. Connections that were begun together fail together, and count once.
    """

    def __init__(self, longest_pause_seconds: float = LONGEST_PAUSE_SECONDS) -> None:
        """Begin without failures."""
        self.generation = 0
        self.resumes_at = 0.0
        self._failures = 0
        self._longest_pause = min(longest_pause_seconds, LONGEST_PAUSE_SECONDS)

    @property
    def is_slow(self) -> bool:
        """Whether the server failed, and no connection has worked since."""
        return self._failures > 0

    def at_once(self, proven: int, on_trial: int) -> int:
        """Return how many connections may be in the process of being opened, beside those that are open.

        `proven` connections have sent an email, those `on_trial` have not yet. If all are proven, half as many may be
        opened beside them, but at least AT_ONCE_AT_FIRST; those on trial count as such openings.
        """
        return 1 if self._failures else max(AT_ONCE_AT_FIRST, proven // 2) - on_trial

    def fail(self, generation: int, now: float) -> None:
        """Count a connection that was begun in `generation` and failed; the next one waits."""
        if generation != self.generation:
            return
        self.generation += 1
        self._failures += 1
        self.wait(now)

    def wait(self, now: float) -> None:
        """Let the next one wait until a connection works, or for the pause."""
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), self._longest_pause)
        self.resumes_at = now + pause * random.uniform(*JITTER)  # noqa: S311 - not a secret

    def reset(self) -> None:
        """Forget the failures: a new connection works."""
        self._failures = 0
        self.resumes_at = 0.0

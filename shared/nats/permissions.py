# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the permissions that a NATS server denies.

The server reports a denial as an error of the connection; the request itself gets no answer.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_VIOLATION: Final = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"(?: using queue "([^"]*)")?', re.IGNORECASE
)


class Denial(NamedTuple):
    """A subject that the NATS user may not publish or subscribe to, as it can be added to the user's permissions."""

    verb: str
    subject: str
    queue: str = ""

    def is_of(self, verb: str, subject: str) -> bool:
        """Return whether this verb (`publish` or `subscription`) on this subject was denied."""
        return (self.verb, self.subject) == (verb, subject)

    def is_of_subscription(self, subject: str, queue: str) -> bool:
        """Return whether this subscription was denied; old servers do not name the queue group."""
        return self.is_of("subscription", subject) and self.queue in {"", queue}

    def __str__(self) -> str:
        """Return a sentence for logs and error messages."""
        if self.verb == "publish":
            return f"the NATS user may not publish to {self.subject}"
        queue = f" in the queue group {self.queue}" if self.queue else ""
        return f"the NATS user may not subscribe to {self.subject}{queue}"


def denial_in(error: Exception) -> Denial | None:
    """Return the denial that an error of the connection reports; None if it is another error."""
    found = _VIOLATION.search(str(error))
    return Denial(found[1].lower(), found[2], found[3] or "") if found else None

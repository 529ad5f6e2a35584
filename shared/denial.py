# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: what a NATS server says it does not permit. It says so beside the request, which just goes unanswered."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_SAID: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class Denial(NamedTuple):
    """What a user may not do; nats-py has made the subject lower-case."""

    verb: str
    subject: str

    def is_of(self, verb: str, subject: str) -> bool:
        """Tell whether it is this that the user may not do."""
        return (self.verb, self.subject) == (verb, subject.lower())

    def __str__(self) -> str:
        """Say it in a sentence."""
        return f"the NATS user may not {'publish' if self.verb == 'publish' else 'subscribe'} to {self.subject}"


def of(error: Exception) -> Denial | None:
    """Return what an error of the connection says, if it is of this kind."""
    found = _SAID.search(str(error))
    return Denial(found[1].lower(), found[2].lower()) if found else None

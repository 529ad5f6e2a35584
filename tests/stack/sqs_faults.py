# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Planned faults of the SQS endpoint, each for a number of times."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.stack.sqs_errors import SqsError


class Faults:
    """Planned failures by action, in the order of planning."""

    def __init__(self) -> None:
        self._calls: defaultdict[str, deque[SqsError]] = defaultdict(deque)
        self._entries: defaultdict[str, deque[Mapping[int, dict[str, Any]]]] = defaultdict(deque)

    def fail_calls(self, action: str, error: SqsError, times: int) -> None:
        """Plan failures of whole calls."""
        self._calls[action].extend([error] * times)

    def fail_entries(self, action: str, failure: dict[str, Any], count: int, times: int) -> None:
        """Plan failures of the first `count` entries of a batch."""
        self._entries[action].extend([dict.fromkeys(range(count), failure)] * times)

    def raise_due(self, action: str) -> None:
        """Raise the next planned failure of a whole call, if any."""
        if planned := self._calls.get(action):
            raise planned.popleft()

    def due_entries(self, action: str) -> Mapping[int, dict[str, Any]]:
        """Take the next planned failures of entries, by their number in the batch."""
        planned = self._entries.get(action)
        return planned.popleft() if planned else {}

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The requests in flight of each group, and whether a further one leaves enough for the other groups."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import msgspec

from shared.nats.endpoint import unreserved

if TYPE_CHECKING:
    from collections.abc import Callable

NONE: Final = (0, 0)


class _Request(msgspec.Struct):
    group_id: str | None = None


_read = msgspec.json.Decoder(_Request).decode  # to check all UTF-8 takes 6 times as long; the handler does it


class GroupShare:
    """Counts requests and the bytes of their messages. One group may take three quarters of each limit."""

    def __init__(self, max_in_flight: int = sys.maxsize, max_bytes: int = sys.maxsize) -> None:
        """Begin without requests."""
        self._requests = unreserved(max_in_flight)
        self._bytes = unreserved(max_bytes)
        self._held: dict[str, tuple[int, int]] = {}

    def enter(self, group_id: str, size: int) -> None:
        """Count a request."""
        count, total = self._held.get(group_id, NONE)
        self._held[group_id] = count + 1, total + size

    def leave(self, group_id: str, size: int) -> None:
        """Count a request no more."""
        count, total = self._held.pop(group_id)
        if count > 1:
            self._held[group_id] = count - 1, total - size

    def admits(self, data: bytes) -> bool:
        """Return whether the group of a request has less than its share; a request without a group is its own group."""
        group_id = _group_id(data)
        count, total = self._held.get(group_id, NONE) if group_id else NONE
        return count < self._requests and (not count or total + len(data) <= self._bytes)

    def hold(self, data: bytes) -> Callable[[], None]:
        """Count a request until the function that is returned is called."""
        held = [(_group_id(data), len(data))]
        self.enter(*held[0])

        def end() -> None:
            if held:
                self.leave(*held.pop())

        return end


def _group_id(data: bytes) -> str:
    try:
        return _read(data).group_id or ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # it is answered at once
        return ""

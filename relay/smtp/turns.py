# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: sends that wait, served by turns among their groups. Joining, leaving and the next turn take constant time."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

W = TypeVar("W", bound="Hashable")

FIRST_TURNS_IN_A_ROW: Final = 15  # then a group that had a turn has another one: new groups do not starve it


class Turns(Generic[W]):
    """Within a group the order is that of joining; a group that waits for its first turn comes before the others.

    A group that waits no more keeps its place until its next turn would come. Otherwise a group of one caller, who
    returns at once, would always be new.

    Example: the group A waits with a1, a2 and a3. The first turn is that of a1. Then the group B joins with b1 and b2.
    The next turns are those of b1, since B is new, and then of a2, b2 and a3, since both have had a turn.
    """

    def __init__(self) -> None:
        """Begin without waiting sends."""
        self._new: OrderedDict[str, OrderedDict[W, None]] = OrderedDict()
        self._served: OrderedDict[str, OrderedDict[W, None]] = OrderedDict()
        self._waiting = 0
        self._first_turns = 0

    def __len__(self) -> int:
        """Return how many sends wait."""
        return self._waiting

    def join(self, group: str, waiter: W, *, again: bool = False, in_vain: bool = False) -> None:
        """Add a send behind those of its group, or before them if it waits again.

        `in_vain`: at its last turn the server throttled it. Then its group comes before all others.
        """
        if in_vain:
            self._new[group] = self._served.pop(group, OrderedDict()) or self._new.get(group, OrderedDict())
            self._new.move_to_end(group, last=False)
        line = self._served.get(group)
        if line is None:
            line = self._new.setdefault(group, OrderedDict())
        line[waiter] = None
        if again:
            line.move_to_end(waiter, last=False)
        self._waiting += 1

    def leave(self, group: str, waiter: W) -> None:
        """Remove a send, if it still waits."""
        for groups in (self._new, self._served):
            line = groups.get(group)
            if line is not None and waiter in line:
                del line[waiter]
                self._waiting -= 1
                if groups is self._new and not line:
                    del self._new[group]
        self._forget_absent()

    def next(self, suits: Callable[[W], bool] = lambda _: True) -> W | None:
        """Remove and return the send whose turn it is, without regard to those that do not suit."""
        for groups in self._order():
            for group, line in groups.items():
                waiter = next(filter(suits, line), None)
                if waiter is not None:
                    self._take(groups, group, waiter)
                    return waiter
        return None

    def _order(self) -> tuple[OrderedDict[str, OrderedDict[W, None]], OrderedDict[str, OrderedDict[W, None]]]:
        if self._first_turns < FIRST_TURNS_IN_A_ROW:
            return self._new, self._served
        return self._served, self._new

    def _take(self, groups: OrderedDict[str, OrderedDict[W, None]], group: str, waiter: W) -> None:
        self._first_turns = self._first_turns + 1 if groups is self._new else 0
        line = groups.pop(group)
        del line[waiter]
        self._waiting -= 1
        self._served[group] = line
        self._forget_absent()

    def _forget_absent(self) -> None:
        """Forget the groups whose turn it is and that do not wait, or all of them if no send waits."""
        if not self._waiting:
            self._served.clear()
        while self._served and not next(iter(self._served.values())):
            self._served.popitem(last=False)

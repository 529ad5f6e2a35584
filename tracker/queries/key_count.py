# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: proves that no key has left a bucket without a write, by expiry, by a purge or by a limit of the bucket.

A follower is not notified of these. But a stream has a number of keys, and only a write can add one: if the number has
grown by all writes that could have added one, none has left.
"""

from __future__ import annotations

from typing import Final

MAX_SEEN: Final = 20_000  # keys; of about 100 bytes each


class KeyCount:
    """The keys of a bucket at some sequence, and the writes after it."""

    def __init__(self, sequence: int, keys: int) -> None:
        """Begin with the number of keys that the bucket has at a sequence."""
        self._sequence = sequence
        self._keys = keys
        self._seen: set[str] = set()
        self._may_be_new: list[int] = []

    def written(self, key: str, sequence: int, previous: int | None, *, is_known: bool) -> None:
        """Note a write; `previous` is the revision that it followed, None if it followed any.

        `is_known`: the key is known to have had a value. Earlier writes to the key may not have been noted: a
        bucket with a history of 1 does not deliver a revision that was overwritten before its delivery.
        """
        if key in self._seen:
            return
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen.add(key)
        if previous == 0:
            self._may_be_new.append(sequence)
        elif (previous is None or previous > self._sequence) and not is_known:
            self._may_be_new.append(previous or sequence)

    def proves(self, sequence: int, keys: int) -> bool:
        """Return whether no key has left, if the bucket has this number of keys at a sequence; all writes are noted."""
        if sequence < self._sequence:  # two answers in the other order: the later one was checked
            return True
        later = [one for one in self._may_be_new if one > sequence]
        expected = self._keys + len(self._may_be_new) - len(later)
        self._sequence, self._keys, self._may_be_new = sequence, keys, later
        return keys == expected

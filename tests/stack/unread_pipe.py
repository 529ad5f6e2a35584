# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A full pipe that is not read, as when the collector of logs hangs."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

FILL: Final = b"." * 4095 + b"\n"


class UnreadPipe:
    """The two ends of a pipe whose buffer is full."""

    def __init__(self) -> None:
        self._reader, self.descriptor = os.pipe()
        os.set_blocking(self.descriptor, False)
        self._filled = 0
        try:
            while True:
                self._filled += os.write(self.descriptor, FILL)
        except BlockingIOError:
            os.set_blocking(self.descriptor, True)

    def read_all(self) -> bytes:
        """Return what was written besides the filling; for the time when no process writes any more."""
        os.set_blocking(self._reader, False)
        read = b""
        with suppress(BlockingIOError):
            while chunk := os.read(self._reader, 65_536):
                read += chunk
        return read[self._filled :]

    def read_filling(self) -> None:
        """Read as much as fills the pipe, so that there is space again."""
        while self._filled:
            self._filled -= len(os.read(self._reader, self._filled))

    def close_reader(self) -> None:
        """Close the end that would be read."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1

    def close(self) -> None:
        """Close both ends."""
        self.close_reader()
        os.close(self.descriptor)


@contextmanager
def unread_pipe() -> Iterator[UnreadPipe]:
    """Make a full pipe."""
    pipe = UnreadPipe()
    try:
        yield pipe
    finally:
        pipe.close()

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Writes log lines in a thread of its own: a reader that stops reading must not stop the event loop.

The queue is bounded. Lines that find it full, and lines that cannot be written, are counted, and the count is written
as soon as writing works again. While the system starts no thread, lines wait in the queue.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE_BYTES: Final = 4 * 1024 * 1024
IMPORTANT_QUEUE_BYTES: Final = 12 * 1024 * 1024
"""Where important lines are lost, too: at a stop, a relay may log 20,000 lost records at once (5 MB)."""
GATHER_SECONDS: Final = 0.05  # the lines of this time are written together, which takes a third of the CPU
BATCH_BYTES: Final = 4096  # PIPE_BUF of Linux: what other processes write to the same pipe never breaks such a write
FULL_SECONDS: Final = 0.005  # before the next try to write to a full pipe that does not block
STALL_SECONDS: Final = 0.5
FLUSH_SECONDS: Final = 2.0
START_PAUSE_SECONDS: Final = 1.0  # before the next try to start the thread


class LineWriter:
    """Writes lines to a file descriptor, in their order."""

    def __init__(self, descriptor: int | None, loss_line: Callable[[int], bytes]) -> None:
        """Write to `descriptor`, or lose every line if it is None; `loss_line` makes the line with the count."""
        self._descriptor = descriptor
        self._loss_line = loss_line
        self._lines: deque[bytes] = deque()
        self._accepted = self._dropped = 0  # changed by `put` only
        self._done = self._unwritten = self._reported = 0  # changed by the thread only
        self._is_torn = False
        self._wake = threading.Event()
        self._is_urgent = threading.Event()
        self._is_ending = False
        self._is_running = False
        self._start_at = 0.0
        self._thread = self._start()

    @property
    def lost(self) -> int:
        """How many lines were lost."""
        return self._dropped + self._unwritten

    def put(self, line: bytes, *, is_important: bool = False) -> None:
        """Queue a line with its line end; if too many bytes wait, lose it. For one thread at a time.

        Lines wait GATHER_SECONDS for further ones, except important lines.
        """
        if self._accepted - self._done >= (IMPORTANT_QUEUE_BYTES if is_important else QUEUE_BYTES):
            self._dropped += 1
            return
        self._accepted += len(line)
        self._lines.append(line)
        if is_important and not self._is_urgent.is_set():
            self._is_urgent.set()
        if not self._wake.is_set():
            self._wake.set()
        if not (self._is_running or self._is_ending) and time.monotonic() >= self._start_at:
            self._thread = self._start()

    def close(self) -> None:
        """Write the queued lines; return after STALL_SECONDS without progress, or after FLUSH_SECONDS."""
        self._is_ending = True
        self._is_urgent.set()
        self._wake.set()
        if not self._is_running:
            self._thread = self._start()
        deadline = time.monotonic() + FLUSH_SECONDS
        done = -1
        while self._thread.is_alive() and time.monotonic() < deadline and done != self._done:
            done = self._done
            self._thread.join(STALL_SECONDS)
        while not self._is_running and self._lines and self._is_writable():
            self._write_batch()

    def _start(self) -> threading.Thread:
        """Start the thread, if the system permits it; a later line tries again."""
        thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._is_running = True
        try:
            thread.start()
        except RuntimeError:
            self._is_running = False
            self._start_at = time.monotonic() + START_PAUSE_SECONDS
        return thread

    def _run(self) -> None:
        try:
            self._write_all()
        finally:
            self._is_running = False

    def _write_all(self) -> None:
        while not self._is_ending or self._lines:
            self._wake.wait()
            self._is_urgent.wait(GATHER_SECONDS)
            self._wake.clear()
            if not self._is_ending:
                self._is_urgent.clear()
            while self._lines:
                self._write_batch()
        if self.lost > self._reported:
            self._write_batch()

    def _write_batch(self) -> None:
        lost = self.lost
        reports = [self._loss_line(lost - self._reported)] if lost > self._reported else []
        lines, size = self._take(BATCH_BYTES - sum(map(len, reports)))
        unwritten = self._write(b"".join(reports + lines))
        if unwritten <= len(lines):
            self._reported = lost
        self._unwritten += min(unwritten, len(lines))
        self._done += size

    def _is_writable(self) -> bool:
        """Return whether a write does not block; wait for it at most STALL_SECONDS."""
        return self._descriptor is None or bool(select.select([], [self._descriptor], [], STALL_SECONDS)[1])

    def _take(self, space: int) -> tuple[list[bytes], int]:
        """Take lines that fit into a write, but at least one; return them and their size."""
        lines: list[bytes] = []
        size = 0
        while self._lines and (not lines or size + len(self._lines[0]) <= space):
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        return lines, size

    def _write(self, block: bytes) -> int:
        """Write lines; return how many of them were not written completely."""
        if self._descriptor is None:
            return block.count(b"\n")
        rest = b"\n" + block if self._is_torn else block
        try:
            while rest:
                written = _write_some(self._descriptor, rest)
                if written:
                    self._is_torn = rest[written - 1] != ord("\n")
                    rest = rest[written:]
        except OSError:  # no reader, no space: the next line may be written again
            return min(rest.count(b"\n"), block.count(b"\n"))
        return 0


def _write_some(descriptor: int, block: bytes) -> int:
    """Write as much as fits; if nothing does, wait until something may (a descriptor that does not block)."""
    try:
        return os.write(descriptor, block)
    except BlockingIOError:
        select.select([], [descriptor], [])
        time.sleep(FULL_SECONDS)
        return 0

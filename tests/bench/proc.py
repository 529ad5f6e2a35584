# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""CPU time and memory of processes, from /proc. Linux only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12  # utime and stime, counted behind the command's name (proc_pid_stat(5))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of the processes since their start."""
    return sum(map(_cpu_seconds, pids))


def rss_mb(pid: int) -> float:
    """Return the current resident memory."""
    return _status_mb(pid, "VmRSS")


def peak_mb(pids: Iterable[int]) -> float:
    """Return the largest peak of resident memory of the processes."""
    return max(_status_mb(pid, "VmHWM") for pid in pids)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_PER_SECOND


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}")

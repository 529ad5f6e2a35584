# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Memory of large messages is used again, without returning it to the system; cycles are still collected."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Final

import pytest

PROGRAM: Final = """
import resource
from shared.service import memory
memory.keep_freed_blocks()
for _ in range(100):
    bytes(bytearray(400_000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
PAGES: Final = 100 * 2 * 400_000 // 4096  # of all these blocks


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_blocks_are_used_again() -> None:
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, capture_output=True, text=True, check=True)  # noqa: S603 - constant
    assert int(done.stdout) < PAGES / 2


CYCLES: Final = """
import gc
from shared.service import memory
memory.collect_less_often()
for _ in range(100_000):
    cycle = []
    cycle.append(cycle)
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_cycles_are_collected_after_few_thousand_objects() -> None:
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True)  # noqa: S603 - constant
    frozen, watched = map(int, done.stdout.split())
    assert frozen > 1000
    assert watched < 5000

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""How the process allocates memory for large messages, and how often it looks for garbage."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

TRIM_THRESHOLD: Final = -1  # the names of glibc's malloc.h
MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 4_000_000
LARGEST_BLOCK_BYTES: Final = 2_000_000  # more than a message that NATS accepts by default
NEW_OBJECTS: Final = 2000  # more than 64 emails in flight have


def keep_freed_blocks() -> None:
    """Let glibc reuse the memory of large messages; it returns each block to the system, and gets it back page by page.

    That takes three quarters of the time of reading messages of 400 kB, and NATS disconnects a process that reads
    too slowly. Other C libraries stay as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return
    mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(MMAP_THRESHOLD, LARGEST_BLOCK_BYTES)


def collect_less_often() -> None:
    """Let Python look for cycles among fewer objects and less often; all others are freed at once anyway.

    With its default of 700 new objects it looks through those of the emails in flight and of all modules again and
    again, which takes 11 us of each email; so it takes 1 us.
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`python -m tests.demo`: exit status 0 only if everything came back right; KEEP=1 leaves it running until Ctrl-C."""

from __future__ import annotations

import os
import signal

for number in (signal.SIGINT, signal.SIGTERM):  # before the slow imports: nothing has begun that must be cleaned up
    signal.signal(number, lambda received, _: os._exit(128 + received))

import asyncio  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402

from tests.demo import performance, screen  # noqa: E402

NO = frozenset({"", "0", "false", "no", "off"})

if __name__ == "__main__":
    logging.basicConfig(handlers=[logging.NullHandler()])  # what the servers would say is checked, or in our own words
    keep = os.environ.get("KEEP", "").strip().lower() not in NO
    sys.exit(asyncio.run(performance.give(screen.on(sys.stdout), keep=keep)))

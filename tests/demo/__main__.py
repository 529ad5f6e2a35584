# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`python -m tests.demo`: exit status 0 only if all checks pass; KEEP=1 leaves it running until Ctrl-C."""

from __future__ import annotations

import os
import signal

for number in (signal.SIGINT, signal.SIGTERM):  # before the slow imports: there is nothing to clean up yet
    signal.signal(number, lambda received, _: os._exit(128 + received))

import asyncio  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402

from tests.demo import runner, screen  # noqa: E402

NO = frozenset({"", "0", "false", "no", "off"})

if __name__ == "__main__":
    logging.basicConfig(handlers=[logging.NullHandler()])  # the checks cover what the servers would log
    keep = os.environ.get("KEEP", "").strip().lower() not in NO
    sys.exit(asyncio.run(runner.run(screen.on(sys.stdout), keep=keep)))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A port of 127.0.0.1 that nobody listens on, and that nobody else is about to."""

from __future__ import annotations

import os
import secrets
import socket
from collections import deque

# Below the range the kernel takes clients' ports from, so that no connection sits on a port a killed server wants back.
LOWEST = 12_000
HIGHEST = 32_000
WORKERS = 8
"""Whoever is given a port binds it a little later; so each of so many workers of pytest has ports of its own."""

_given: deque[int] = deque(maxlen=200)


def free_port() -> int:
    """Pick a free port; whoever asked should bind it soon."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    while True:
        port = LOWEST + secrets.randbelow((HIGHEST - LOWEST) // WORKERS) * WORKERS + worker
        if port not in _given and _is_free(port):
            _given.append(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

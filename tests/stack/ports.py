# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A free port of 127.0.0.1 that no other worker of pytest uses."""

from __future__ import annotations

import os
import secrets
import socket
from collections import deque

# Below the range of the kernel for client ports: no connection may use the port of a killed server before its restart.
LOWEST = 12_000
HIGHEST = 32_000
WORKERS = 8
"""A port is bound some time after it was chosen, so each of up to this many workers of pytest has its own ports."""

_given: deque[int] = deque(maxlen=200)


def free_port() -> int:
    """Return a free port; the caller should bind it soon."""
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

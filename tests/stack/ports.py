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

KEPT = 200

_given: deque[tuple[int, int]] = deque()
"""Ports, each with the descriptor that reserves it."""


def free_port() -> int:
    """Return a free port; the caller should bind it soon."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    while True:
        port = LOWEST + secrets.randbelow((HIGHEST - LOWEST) // WORKERS) * WORKERS + worker
        if _is_free(port) and (reserved := _reserve(port)) is not None:
            _given.append((port, reserved))
            if len(_given) > KEPT:
                os.close(_given.popleft()[1])
            return port


def _reserve(port: int) -> int | None:
    """Bind an abstract Unix socket named after the port, so that no other run of the tests chooses it."""
    with socket.socket(socket.AF_UNIX) as reserved:
        try:
            reserved.bind(f"\0lfx-email-test-port-{port}")
        except OSError:
            return None
        return reserved.detach()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

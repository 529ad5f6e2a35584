# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A port of 127.0.0.1 that nobody listens on."""

from __future__ import annotations

import secrets
import socket

# Below the range the kernel takes clients' ports from, so that no connection sits on a port a killed server wants back.
LOWEST = 12_000
HIGHEST = 32_000


def free_port() -> int:
    """Pick a free port; whoever asked should bind it soon."""
    while True:
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        if _is_free(port):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

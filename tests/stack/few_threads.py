# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""A system at its limit of threads: `Thread.start` fails as CPython's does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class FewThreads:
    """Lets no thread start until the test allows it; counts the tries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tries = 0
        self.are_allowed = False
        start = threading.Thread.start

        def try_to_start(thread: threading.Thread) -> None:
            self.tries += 1
            if not self.are_allowed:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", try_to_start)

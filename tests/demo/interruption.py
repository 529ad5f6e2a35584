# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Ctrl-C and SIGTERM: the first one ends the demo at any point, and later ones do not disturb the clean-up."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Cancels the task that created it at the first signal, until signals are ignored."""

    def __init__(self) -> None:
        self.status = 0
        task = asyncio.current_task()
        assert task
        self._task = task
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._come, number)

    async def wait(self) -> None:
        """Return at the signal, which is then a normal end."""
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        self._task.uncancel()
        self.status = 0

    def ignore(self) -> None:
        """Ignore signals until the end of the process."""
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _come(self, number: signal.Signals) -> None:
        self.status = 128 + number
        self.ignore()
        self._task.cancel()

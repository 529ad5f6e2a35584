# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Passes each message of a subscription to a callback, without nats-py's queue and tasks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

log = logging.getLogger(__name__)


class Dispatch:
    """Takes the place of the future of a single reply; nats-py calls its `set_result` for every message."""

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        """Call `on_message`."""
        self._on_message = on_message

    def cancelled(self) -> bool:
        """Return False: messages are always wanted."""
        return False

    def set_result(self, msg: Msg) -> None:
        """Pass a message on; log an error of the callback."""
        try:
            self._on_message(msg)
        except Exception:  # it would stop nats-py's reading permanently
            log.exception("nats.message_failed", extra={"subject": msg.subject})

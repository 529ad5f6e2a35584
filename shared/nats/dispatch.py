# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Passes the messages of a subscription on as they are read; an error of the subscriber does not stop the reading."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

log = logging.getLogger(__name__)


class Dispatch:
    """Takes the place of the future of a single reply; nats-py calls its `set_result` for every message."""

    def __init__(self, on_message: Callable[[Msg], None], refuses: Callable[[str, int], bool] | None = None) -> None:
        """Pass messages to `on_message`; `refuses` is asked about a large one, before its payload is read."""
        self._on_message = on_message
        self._refuses = refuses

    def cancelled(self) -> bool:
        """Return False: nats-py asks it before each message."""
        return False

    def set_result(self, msg: Msg) -> None:
        """Pass a message on."""
        try:
            self._on_message(msg)
        except Exception:  # it would stop nats-py's reading permanently
            log.exception("nats.message_failed", extra={"subject": msg.subject})

    def refuses(self, reply: bytes, size: int) -> bool:
        """Return whether a message of this size, headers included, is refused; then it is not read."""
        try:
            return bool(self._refuses and self._refuses(reply.decode(), size))
        except UnicodeDecodeError:  # reported when the message was read
            return False
        except Exception:
            log.exception("nats.message_failed", extra={"reply": reply})
            return False

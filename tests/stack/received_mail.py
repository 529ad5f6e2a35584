# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The accepted mails of an SMTP server of the stack."""

from __future__ import annotations

import msgspec

from tests.stack.change import Change


class ReceivedMail(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted mail; `content` is the received data without dot-stuffing."""

    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    tls: bool
    authenticated_as: str | None
    peer: tuple[str, int]


class Mailbox:
    """The accepted mails of a server, in the order of their final dots."""

    def __init__(self) -> None:
        self.mails: list[ReceivedMail] = []
        self._change = Change()

    def add(self, mail: ReceivedMail) -> None:
        """Add a mail."""
        self.mails.append(mail)
        self._change.notify()

    async def wait_for_mails(self, count: int, timeout: float = 30.0) -> list[ReceivedMail]:
        """Return all mails when there are `count`."""
        await self._change.wait_until(
            lambda: len(self.mails) >= count, timeout, lambda: f"{len(self.mails)} of {count} mails"
        )
        return self.mails

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What an SMTP server of the stack has accepted."""

from __future__ import annotations

import msgspec

from tests.stack.change import Change


class ReceivedMail(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted mail; `content` is what crossed the wire, with only the dot-stuffing undone."""

    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    tls: bool
    authenticated_as: str | None
    peer: tuple[str, int]


class Mailbox:
    """The mails a server has accepted, in the order of their final dots."""

    def __init__(self) -> None:
        self.mails: list[ReceivedMail] = []
        self._change = Change()

    def add(self, mail: ReceivedMail) -> None:
        """Keep a mail."""
        self.mails.append(mail)
        self._change.notify()

    async def wait_for_mails(self, count: int, timeout: float = 10.0) -> list[ReceivedMail]:
        """Return all mails once there are so many."""
        await self._change.wait_until(
            lambda: len(self.mails) >= count, timeout, lambda: f"{len(self.mails)} of {count} mails"
        )
        return self.mails

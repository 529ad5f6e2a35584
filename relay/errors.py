# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""What delivery can end in, sorted by what may be done about it. Nothing may be imported here."""

from __future__ import annotations


class DeliveryError(Exception):
    """The mail is not known to be accepted. `code` is the SMTP reply code, 0 where there was no reply."""

    def __init__(self, text: str, code: int = 0) -> None:
        """Keep the server's words, or ours where it had none."""
        super().__init__(f"{code} {text}" if code else text)
        self.code = code
        self.text = text


class Deferred(DeliveryError):
    """Not accepted, for a passing reason (RFC 5321, 4.2.1: 4yz; no connection). May be tried again."""


class ConnectionStale(Deferred):
    """A kept connection turned out to be closing before the mail was handed over. Try another at once."""


class Rejected(DeliveryError):
    """Refused for good (RFC 5321, 4.2.1: 5yz). Will not be tried again."""


class Barred(DeliveryError):
    """The account cannot send at all for now: wrong credentials, daily quota used up. Nobody should try for a while."""


class Uncertain(DeliveryError):
    """The mail was handed over and no answer came: accepted or not, nobody knows. Must never be sent again."""


class Suppressed(DeliveryError):
    """The recipient is in the suppression list, for `reason`; nothing was sent."""

    def __init__(self, detail: str, *, reason: str) -> None:
        """Keep why it is in the list."""
        super().__init__(detail)
        self.reason = reason


class Unscreened(DeliveryError):
    """Nobody knows whether the recipient is in the suppression list; nothing was sent."""

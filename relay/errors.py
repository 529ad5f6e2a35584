# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: the ways in which a delivery can fail, sorted by what the relay does about them."""

from __future__ import annotations

from typing import ClassVar


class DeliveryError(Exception):
    """The mail server is not known to have accepted the email.

    `code` is the SMTP reply code, 0 if there was no reply. `outcome` names the kind in metrics, spans and logs.
    `is_permanent` means that the same email will be refused again.
    """

    outcome: ClassVar[str]
    is_permanent: ClassVar[bool] = False

    def __init__(self, text: str, code: int = 0) -> None:
        """Keep the text of the reply, or our own if there was no reply."""
        super().__init__(f"{code} {text}" if code else text)
        self.code = code
        self.text = text


class Deferred(DeliveryError):
    """Not accepted, for a temporary reason: a reply 4yz (RFC 5321, 4.2.1) or no connection. May be tried again."""

    outcome = "deferred"


class Throttled(Deferred):
    """Refused because the account sends too many emails a second. May be tried again at a lower rate."""


class HeldBack(Deferred):
    """The send rate did not allow an attempt within the request's time. Nothing was tried."""


class ConnectionStale(Deferred):
    """A kept connection was closing before the email was handed over. May be tried again at once on another one."""

    outcome = "connectionstale"


class Rejected(DeliveryError):
    """Refused permanently: a reply 5yz (RFC 5321, 4.2.1). Is not tried again."""

    outcome = "rejected"
    is_permanent = True


class SenderRefused(Rejected):
    """Refused until an operator acts: the sender's identity is not verified, or the user may not send as it."""

    is_permanent = False


class AccountRefused(DeliveryError):
    """The account cannot send now, as with wrong credentials. No email is tried for a while."""

    outcome = "barred"


class Uncertain(DeliveryError):
    """The email was handed over and no reply came: it may have been accepted. Must never be sent again."""

    outcome = "uncertain"

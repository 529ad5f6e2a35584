# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Pure: sorts refusals of emails by the code of the reply, and by what SES writes in its text.

Source: the AWS docs on "SMTP response codes returned by Amazon SES" and "Amazon SES email sending errors".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from relay.errors import AccountRefused, Deferred, Rejected, SenderRefused, Throttled

if TYPE_CHECKING:
    from relay.errors import DeliveryError

TRANSIENT: Final = 4  # RFC 5321, 4.2.1: the first digit
PERMANENT: Final = 5
REFUSALS: Final = (TRANSIENT, PERMANENT)
AUTH_REQUIRED: Final = 530  # RFC 4954, 6 and RFC 3207, 4: without a login, or without STARTTLS, no email is accepted

_ACCOUNT = re.compile(
    r"daily message quota exceeded|sending (?:for \S.* )?(?:is )?(?:paused|suspended|disabled)"
    r"|configuration set .*does not exist",
    re.IGNORECASE,
)
_SENDER = re.compile(r"address is not verified|not authorized to perform", re.IGNORECASE)
_THROTTLED = re.compile(r"throttling", re.IGNORECASE)  # of the account: another connection would be throttled too


def error_of(code: int, text: str) -> DeliveryError:
    """Return the error that a reply 4yz or 5yz to an email means."""
    if code == AUTH_REQUIRED or _ACCOUNT.search(text):
        return AccountRefused(text, code)
    if code // 100 == PERMANENT:
        return (SenderRefused if _SENDER.search(text) else Rejected)(text, code)
    return (Throttled if _THROTTLED.search(text) else Deferred)(text, code)

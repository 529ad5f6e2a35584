# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each refusal that SES documents means the right error."""

from __future__ import annotations

import pytest

from relay.errors import AccountRefused, Deferred, DeliveryError, Rejected, SenderRefused, Throttled
from relay.smtp import refusals

REPLIES: list[tuple[str, type[DeliveryError]]] = [
    ("451 4.3.0 try again", Deferred),
    ("454 Throttling failure: Maximum sending rate exceeded.", Throttled),
    ("454 Throttling failure: Daily message quota exceeded.", AccountRefused),
    # hcengineering/platform#8899, GoodDollar/GoodServer#419, faiscadev/fakecloud#1110
    ("554 Message rejected: Sending paused for this account. For more information, please check", AccountRefused),
    ("554 Message rejected: Sending suspended for this account.", AccountRefused),
    ("554 Message rejected: Email sending for the account is paused.", AccountRefused),
    ("554 Message rejected: Email sending for the configuration set x is paused.", AccountRefused),
    ("554 Transaction failed: Configuration set x does not exist.", AccountRefused),
    ("554 Configuration Set <x> does not exist", AccountRefused),
    ("530 Authentication required", AccountRefused),
    ("530 5.7.0 Must issue a STARTTLS command first", AccountRefused),
    ("550 5.1.1 no such user", Rejected),
    ("550 5.1.1 the address does not exist", Rejected),
    ("554 5.7.1 your sending address is blocked", Rejected),
    ("554 Message rejected: Email address is not verified. The following identities failed", SenderRefused),
    (
        "554 Access denied: User `arn:aws:iam::111122223333:user/mail' is not authorized to perform `ses:SendRawEmail'",
        SenderRefused,
    ),
]


@pytest.mark.parametrize(("reply", "kind"), REPLIES)
def test_a_refusal_is_sorted_by_its_reply(reply: str, kind: type[DeliveryError]) -> None:
    error = refusals.error_of(int(reply[:3]), reply[4:])
    assert type(error) is kind
    assert str(error) == reply
    assert error.is_permanent == (kind is Rejected)

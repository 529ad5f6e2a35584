# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""No error shows the password, even if the reply of a server quotes what the relay has sent."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from relay.errors import DeliveryError
from relay.smtp import session_start
from tests.relay.inputs import connector
from tests.relay.smtp.sessions import ACCOUNT, PASSWORD, USER
from tests.stack import scripted_smtp
from tests.stack.smtp_scripts import Moment, Reply

if TYPE_CHECKING:
    from tests.stack.scripted_smtp import ScriptedSmtp

PLAIN = b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
LOGIN = b64encode(PASSWORD.encode()).decode()


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (f"500 5.5.2 Error: command 'AUTH PLAIN {PLAIN}' not recognized", "command 'AUTH PLAIN ***' not recognized"),
        (f'500 Error: command "{LOGIN.upper()}" not recognized', 'command "***" not recognized'),
        (f"535 5.7.8 {PASSWORD} is not the password", "5.7.8 *** is not the password"),
        (f"454 4.7.0 try {PLAIN} later", "4.7.0 try *** later"),
        (f"hello {PLAIN}", "***"),
    ],
)
async def test_a_reply_that_quotes_the_password_is_shown_without_it(smtp: ScriptedSmtp, reply: str, shown: str) -> None:
    def script(moment: Moment) -> Reply | None:
        return Reply(reply) if moment.stage == "auth" else None

    smtp.options = scripted_smtp.Options(username=USER, password=PASSWORD)
    smtp.script = script
    with pytest.raises(DeliveryError) as failure:
        await connector(smtp, **ACCOUNT).connect()
    assert shown in str(failure.value)
    assert not {PLAIN.lower(), LOGIN.lower(), PASSWORD.lower()} & {*str(failure.value).lower().split("'")}


@pytest.mark.parametrize(("user", "password"), [("", ""), ("u", "p"), ("u", "abc")])
def test_without_a_password_or_with_a_short_one_the_words_of_a_reply_stay(user: str, password: str) -> None:
    assert session_start.without_password("5.7.8 abc expired", user, password) == "5.7.8 abc expired"

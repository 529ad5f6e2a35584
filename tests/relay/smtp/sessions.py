# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The account, the time limits and the failures of a session with a scripted server; asserts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.relay.inputs import ENVELOPE, connector, mail
from tests.stack.smtp_scripts import (
    Close,
    Garbage,
    Reset,
    Silence,
    Store,
)

if TYPE_CHECKING:
    from relay.smtp.connection import SmtpConnection
    from tests.stack.scripted_smtp import ScriptedSmtp
    from tests.stack.smtp_scripts import Action, Stage


USER, PASSWORD = "AKIAUSER", "pass word+/="
ACCOUNT: dict[str, Any] = {"smtp_username": USER, "smtp_password": PASSWORD}
PATIENCE = 0.4  # seconds for a transaction that the server stalls
LENIENCE = 20.0  # more seconds for a busy machine; far below the default time limits
SILENT = (Silence, Garbage)
ON_UVLOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # for tests that do not depend on the loop

TRANSACTION: tuple[Stage, ...] = ("mail", "rcpt", "data", "dot")
BEFORE_THE_DOT: tuple[Stage, ...] = ("mail", "rcpt", "data")
LOSSES: tuple[Action, ...] = (
    Close(),
    Reset(),
    Silence(),
    Garbage(b"\x00\xff\r\n"),
    Garbage(b"25"),
    Garbage(b"250-half a reply\r\n"),
    Garbage(b"199 nothing of RFC 5321\r\n"),
    Garbage(b"777 nothing of RFC 5321\r\n"),
)


def patience(action: Action) -> float:
    """Seconds to allow for this action: few if it may end in silence."""
    return PATIENCE if isinstance(action.then if isinstance(action, Store) else action, SILENT) else 5.0


async def opened(smtp: ScriptedSmtp, seconds: float) -> SmtpConnection:
    """A connection with this time limit for a transaction; its opening may take longer on a busy machine."""
    connection = await connector(smtp).connect()
    connection._timeout_seconds = seconds  # noqa: SLF001 - the setting also limits the opening
    return connection


async def warm(smtp: ScriptedSmtp, seconds: float | None = None, **changes: Any) -> SmtpConnection:
    """A connection that has sent an email and was kept; the script and the time limit begin after it."""
    script, smtp.script = smtp.script, lambda _: None
    connection = await connector(smtp, **changes).connect()
    await connection.send(ENVELOPE, mail(0))
    if seconds is not None:
        connection._timeout_seconds = seconds  # noqa: SLF001 - the setting also limits the opening
    smtp.script = script
    return connection


def verbs(smtp: ScriptedSmtp, session: int = 1) -> list[str]:
    """The commands of a session without their arguments."""
    return [line.split()[0] for line in smtp.commands[session - 1]]

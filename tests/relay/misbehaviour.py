# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Handler, delivery and connections of a relay, with a scripted SMTP server and without NATS; asserts nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from relay.errors import Deferred
from relay.records.idempotency_store import DisabledIdempotencyStore
from relay.send_email_handler import SendEmailHandler, Steps
from relay.smtp.delivery import Delivery
from relay.smtp.pool import Pool, PoolLimits
from relay.smtp.send_rate import SendRate
from tests.relay.inputs import connector
from tests.relay.steps import OPTIONS, REQUEST, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.envelope import Envelope
    from relay.smtp.connection import SmtpConnection
    from tests.stack.scripted_smtp import ScriptedSmtp

SCHEDULER_SECONDS: Final = 0.1  # the system may stop the process between the relay's check and ours
SUBJECT: Final = b"\r\nSubject: mail "


class Relay:
    """Answers requests, and notes when each attempt to send begins."""

    def __init__(self, pool: Pool[SmtpConnection], retry_seconds: float, rate: float) -> None:
        self.store = Store()
        self.late: list[float] = []
        deliver = Delivery(pool, send_rate=SendRate((lambda: rate) if rate else None), server=("localhost", 25))
        options = OPTIONS._replace(send_retry_seconds=retry_seconds)
        self._answer = SendEmailHandler(options, Steps(deliver, self.store, DisabledIdempotencyStore()))
        self._retry_seconds = retry_seconds
        self._ends: dict[bytes, float] = {}

    async def send(self, number: int) -> dict[str, Any]:
        """Send one email with this number in its subject, and return the reply."""
        self._ends[b"%d" % number] = asyncio.get_running_loop().time() + self._retry_seconds
        reply: dict[str, Any] = json.loads(
            await self._answer(json.dumps({**REQUEST, "subject": f"mail {number}"}).encode())
        )
        return reply

    def note_attempt(self, message: bytes) -> None:
        """Note an attempt that begins after the time of its request, by how many seconds."""
        late = asyncio.get_running_loop().time() - self._ends[_number(message)]
        if late > SCHEDULER_SECONDS:
            self.late.append(late)


@asynccontextmanager
async def relay(
    smtp: ScriptedSmtp, *, retry_seconds: float, connections: int = 8, rate: float = 0, **settings: Any
) -> AsyncIterator[Relay]:
    """A relay that sends to this server."""
    connect = connector(smtp, **settings).connect

    async def watched() -> SmtpConnection:
        connection = await connect()
        send = connection.send

        async def noted(envelope: Envelope, message: bytes) -> None:
            running.note_attempt(message)
            await send(envelope, message)

        connection.send = noted  # type: ignore[method-assign]
        return connection

    limits = PoolLimits(connections, messages=100, idle_seconds=5, age_seconds=300, pause_seconds=retry_seconds / 3)
    async with Pool(watched, limits, temporary=Deferred) as pool:
        running = Relay(pool, retry_seconds, rate)
        yield running


def stored(smtp: ScriptedSmtp) -> Counter[int]:
    """How often each number was accepted by the server."""
    return Counter(int(_number(mail.content)) for mail in smtp.mails)


def _number(message: bytes) -> bytes:
    return message.split(SUBJECT, 1)[1].split(b"\r\n", 1)[0]

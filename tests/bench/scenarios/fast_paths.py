# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Each optimised function and the equivalent of a library, on the same input, in this process."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import aiosmtplib
from nats.aio.client import Client

from relay import mime
from relay.envelope import Envelope
from relay.settings import RelaySettings
from relay.smtp.connection import Connector
from relay.submission import Submission
from shared import contract
from shared.addresses import Mailbox
from shared.kv.bucket import Bucket
from shared.nats import connection
from shared.nats.client import ReconnectingClient
from shared.nats.inbox import Inbox
from shared.service.settings import ProcessSettings
from tests.bench import buckets, mails, nats_echo
from tests.bench.row import Collected, Sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.row import Row
    from tests.bench.stage import Stage

AT_ONCE = 64
HEADERS = b"Nats-Stream: KV_email-recipients\r\nNats-Subject: $KV.email-recipients.x\r\nNats-Sequence: 7\r\n\r\n"
ENVELOPE = Envelope("noreply@lfx.linuxfoundation.org", "ada@example.com")


class Path(NamedTuple):
    """Our version and the library's version of one operation; one call does it `units` times."""

    name: str
    plain_name: str
    ours: Callable[[], Awaitable[object]]
    plain: Callable[[], Awaitable[object]]
    calls: int
    units: int = 1


async def run(stage: Stage) -> list[Row]:
    """Optimised functions and their equivalents in libraries."""
    collected = Collected()
    async with AsyncExitStack() as stack:
        paths = [_message(stage), _headers(stage), await _requests(stack, stage), await _batch(stack, stage)]
        paths.append(await _transactions(stack, stage))
        for _ in range(stage.options.runs):
            for path in paths:
                collected.add(path.name, "service", await _measure(path, path.ours), case=path.name)
                collected.add(path.plain_name, "naive", await _measure(path, path.plain), case=path.name)
    return collected.rows()


async def _measure(path: Path, call: Callable[[], Awaitable[object]]) -> Sample:
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(path.calls):
        await call()
    units = path.calls * path.units
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return Sample(value=units / seconds, cpu_us=cpu_seconds / units * 1e6)


def _message(stage: Stage) -> Path:
    now = datetime.now(UTC)
    submission = Submission(
        email_id=str(uuid4()),
        group_id="group",
        sender=Mailbox("noreply", "lfx.linuxfoundation.org", "LFX Self Serve"),
        recipient=Mailbox("ada", "example.com"),
        reply_to=None,
        to="ada@example.com",
        subject="Your meeting",
        text="Hello Ada\n" * 20,
        html=mails.HTML,
    )

    async def ours() -> bytes:
        return mime.build(submission, configuration_set="", now=now)

    async def plain() -> bytes:
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"] = "LFX Self Serve <noreply@lfx.linuxfoundation.org>", "ada@example.com"
        message["Subject"], message["Date"] = submission.subject, now
        message["X-LFX-TRACKING-ID"] = f"group/{submission.email_id}"
        message.set_content(submission.text)
        message.add_alternative(submission.html, subtype="html")
        return message.as_bytes()

    return Path("relay/mime.py", "email.message.EmailMessage", ours, plain, stage.options.count(500))


def _headers(stage: Stage) -> Path:
    async def ours() -> object:
        return ReconnectingClient._parse_header_lines(HEADERS)  # noqa: SLF001 - the measured function

    async def plain() -> object:
        return Client._parse_header_lines(HEADERS)  # noqa: SLF001

    return Path("shared/nats/client.py", "nats-py's own split of headers", ours, plain, stage.options.count(20_000))


async def _requests(stack: AsyncExitStack, stage: Stage) -> Path:
    await stack.enter_async_context(stage.helper("nats_echo", stage.nats_url))
    opened = await stack.enter_async_context(connection.opened(ProcessSettings(nats_url=stage.nats_url), "bench"))
    inbox = await stack.enter_async_context(Inbox(opened))

    async def ours() -> None:
        await asyncio.gather(*(inbox.request(nats_echo.SUBJECT, b"payload") for _ in range(AT_ONCE)))

    async def plain() -> None:
        request = opened.client.request
        await asyncio.gather(*(request(nats_echo.SUBJECT, b"payload", timeout=3) for _ in range(AT_ONCE)))

    return Path("shared/nats/inbox.py", "nats-py's request", ours, plain, stage.options.count(100), AT_ONCE)


async def _batch(stack: AsyncExitStack, stage: Stage) -> Path:
    email_ids = await buckets.fill_group(stage.caller, str(uuid4()), stage.options.count(1000))
    opened = await stack.enter_async_context(connection.opened(ProcessSettings(nats_url=stage.nats_url), "bench"))
    inbox = await stack.enter_async_context(Inbox(opened))
    bucket = Bucket(inbox, opened, contract.EMAIL_RECIPIENTS_BUCKET)
    kv = await opened.client.jetstream().key_value(contract.EMAIL_RECIPIENTS_BUCKET)

    async def ours() -> object:
        return await bucket.get_many(email_ids)

    async def plain() -> None:
        for start in range(0, len(email_ids), AT_ONCE):
            await asyncio.gather(*map(kv.get, email_ids[start : start + AT_ONCE]))

    name = f"nats-py's KV get, {AT_ONCE} at once"
    return Path("shared/kv/batch_get.py", name, ours, plain, stage.options.count(20, least=2), len(email_ids))


async def _transactions(stack: AsyncExitStack, stage: Stage) -> Path:
    target = await stack.enter_async_context(stage.sink())
    kept = await Connector(RelaySettings(smtp_host="localhost", smtp_port=target.port)).connect()
    stack.push_async_callback(kept.quit)
    theirs = await stack.enter_async_context(aiosmtplib.SMTP(hostname="localhost", port=target.port, start_tls=False))
    message = await _message(stage).ours()
    assert isinstance(message, bytes)

    async def ours() -> None:
        await kept.send(ENVELOPE, message)

    async def plain() -> None:
        await theirs.sendmail(ENVELOPE.sender, [ENVELOPE.recipient], message)

    return Path("relay/smtp/dialogue.py", "aiosmtplib's sendmail", ours, plain, stage.options.count(1000))

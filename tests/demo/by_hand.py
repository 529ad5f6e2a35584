# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""KEEP=1: commands to try while everything runs, and a directory with the logs, the mails and an event."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from shared import contract
from tests.demo import mails
from tests.demo.stack import RELAY, TRACKER
from tests.stack import ses_events

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.demo.interruption import Interruption
    from tests.demo.screen import Screen
    from tests.demo.stack import Stack
    from tests.stack.console import Console
    from tests.stack.smtp_server import SmtpServer

LOOK_AGAIN_SECONDS = 0.2
WITHOUT_LIMIT = 1e9
EVENT, HTML, TEXT = "open.json", "mail.html", "mail.txt"
EMAIL = {"to": "you@example.com", "subject": "Hi", "text": "Hi", "html": "<b>Hi</b>"}


async def leave_running(stack: Stack, screen: Screen, email_ids: Mapping[str, str], interruption: Interruption) -> None:
    """Print the commands to try, and return at Ctrl-C."""
    (stack.home / EVENT).write_bytes(_open_event(stack, email_ids[mails.PLAIN.to]))
    (stack.home / HTML).write_text(EMAIL["html"])
    (stack.home / TEXT).write_text(EMAIL["text"])
    _print(stack, screen, email_ids)
    writing = [
        asyncio.create_task(_follow(stack.relay, stack.home / f"{RELAY}.log")),
        asyncio.create_task(_follow(stack.tracker, stack.home / f"{TRACKER}.log")),
        asyncio.create_task(_keep_mails(stack.smtp, stack.home)),
    ]
    try:
        await interruption.wait()
    finally:
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)


def _print(stack: Stack, screen: Screen, email_ids: Mapping[str, str]) -> None:
    email_id = email_ids[mails.PLAIN.to]
    screen.heading("Try it by hand", "in another terminal, in this directory")
    screen.command(f"export NATS_URL={stack.nats.url} PATH=$PWD/.venv/bin:$PATH")
    screen.command(TRACKER, "watch &")
    bodies = (f"--html {stack.home / HTML}", f"--text {stack.home / TEXT}")
    screen.command(RELAY, "send", "--to you@example.com", "--subject Hi", *bodies)
    screen.command(TRACKER, "status", email_id)
    screen.command(TRACKER, "status", "--group-id", mails.GROUP)
    screen.command(TRACKER, "analytics", "--group-id", mails.GROUP)
    for process in (stack.relay, stack.tracker):
        screen.command(
            "curl", "-i", f"http://localhost:{process.port}/livez", f"http://localhost:{process.port}/readyz"
        )
    screen.heading("One more open of the plain email", "a second time changes nothing")
    target = "-H 'X-Amz-Target: AmazonSQS.SendMessage'"
    screen.command("curl", stack.sqs.endpoint_url, target, f"-d @{stack.home / EVENT}")
    screen.heading("With the nats CLI")
    request = ("nats", "req", "--server", stack.nats.url)
    screen.command(*request, contract.SEND_EMAIL_SUBJECT, _quoted(EMAIL))
    screen.command(*request, contract.GET_EMAIL_STATUS_SUBJECT, _quoted({"email_id": email_id}))
    screen.command("nats", "sub", "--server", stack.nats.url, "'lfx.email-service.>'")
    screen.heading("Logs and mails")
    screen.command("tail", "-f", f"{stack.home}/*.log")
    screen.command("head", "-n", "20", f"{stack.home}/*.eml")
    screen.verdict("Everything runs until Ctrl-C.", is_right=not screen.failed)


def _quoted(request: Mapping[str, str]) -> str:
    return f"'{msgspec.json.encode(request).decode()}'"


def _open_event(stack: Stack, email_id: str) -> bytes:
    """Encode a call of SendMessage, so that curl can send it without the AWS CLI and credentials."""
    event = ses_events.open_(f"{mails.GROUP}/{email_id}", datetime.now(UTC), to=mails.PLAIN.to)
    return msgspec.json.encode({"QueueUrl": stack.sqs.queue_url, "MessageBody": ses_events.notification(event)})


async def _follow(process: Console, log: Path) -> None:
    with log.open("w") as file:
        written = 0
        while True:
            text = process.output
            file.write(text[written:])
            file.flush()
            written = len(text)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)  # the Console announces single events, not every line


async def _keep_mails(smtp: SmtpServer, home: Path) -> None:
    kept = 0
    while True:
        for mail in (await smtp.wait_for_mails(kept + 1, WITHOUT_LIMIT))[kept:]:
            kept += 1
            (home / f"{kept:03}.eml").write_bytes(mail.content)

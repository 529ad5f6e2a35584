# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""Postfix accepts each mail of the relay at the first or second try, and what it delivers is what was sent."""

from __future__ import annotations

import email
import email.policy
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import nats
import pytest

from tests.postfix import postfix
from tests.stack import console, nats_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from email.message import EmailMessage

    from nats.aio.client import Client

REASON = postfix.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

SEND_EMAIL = "lfx.email-service.send_email"
EMAIL = {"to": "ada@example.com", "subject": "Hello Ada", "html": "<p>Hello Ada</p>", "text": "Hello Ada"}
BODIES = {
    "plain": "Hello Ada",
    "dots": ".\r\n..\r\n.a\r\n",
    "LF lines": "one\ntwo\n\nthree\n",
    "CRLF lines": "one\r\ntwo\r\n\r\nthree\r\n",
    "mixed line ends": "a\n.\nb\r\n..c\rd",
    "a line of 989 bytes": "x" * 989,
    "a line of 998 bytes": "x" * 998,
    "a line of 3,000 bytes": "x" * 3000,
    "From at the start of a line": "From here\r\nFrom there\r\n",
    "Ünïcödé": "Grüße, 世界 🎉\r\n",
    "trailing blanks": "a  \r\n\tb \r\n",
    "100 kB": "0123456789\r\n" * 9_000,
}


@asynccontextmanager
async def relay(port: int) -> AsyncIterator[Client]:
    """Run a relay that sends through a port, and connect to its NATS server."""
    async with nats_server.running() as server:
        environment = {"NATS_URL": server.url, "EMAIL_ENABLED": "true", "SMTP_PORT": str(port)}
        async with console.running("lfx-email-relay", "serve", "--create-missing", env=environment) as process:
            await process.wait_until_ready()
            client = await nats.connect(server.url)
            try:
                yield client
            finally:
                await client.close()


async def send(client: Client, **fields: str) -> dict[str, Any]:
    """Send an email and return the reply."""
    reply = await client.request(SEND_EMAIL, json.dumps(EMAIL | fields).encode(), timeout=20)
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


async def test_each_body_arrives_unchanged() -> None:
    async with postfix.running() as server, relay(server.port) as client:
        for name, body in BODIES.items():
            assert "email_id" in await send(client, subject=name, text=body, html=f"<p>{body}</p>"), server.log[-2000:]
        mails = [parsed(content) for content in await server.mails(len(BODIES))]
    received = {str(mail["Subject"]): [payload(part) for part in mail.iter_parts()] for mail in mails}
    assert received == {name: [body.encode(), f"<p>{body}</p>".encode()] for name, body in BODIES.items()}


async def test_no_line_is_so_long_that_a_server_breaks_it() -> None:
    async with postfix.running() as server, relay(server.port) as client:
        for length in (980, 989, 990, 998, 1200):
            await send(client, subject="s" * min(length, 900), text="x" * length, html="x" * length)
        mails = await server.mails(5)
    assert max(len(line) for mail in mails for line in mail.replace(b"\r\n", b"\n").split(b"\n")) <= 989


async def test_postscreen_admits_a_new_connection_after_it_refused_the_first() -> None:
    async with postfix.running() as server, relay(server.screened_port) as client:
        assert "email_id" in await send(client), server.log[-4000:]
        assert len(await server.mails(1)) == 1


def parsed(content: bytes) -> EmailMessage:
    """Read a mail."""
    return email.message_from_bytes(content, policy=email.policy.default)


def payload(part: Any) -> bytes:
    """Return the decoded body of a part."""
    return bytes(part.get_payload(decode=True))

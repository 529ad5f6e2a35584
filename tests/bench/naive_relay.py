# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The naive relay: one connection per email, one email at a time. `python -m tests.bench.naive_relay URL PORT [CA]`.

It follows the tutorials of nats-py, aiosmtplib and email: each callback is awaited before the next.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import aiosmtplib
import nats
from nats.js.errors import KeyNotFoundError

from shared import contract
from tests.bench import smtp_load

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js.kv import KeyValue

SUBJECT = "bench.naive_relay"


async def main(url: str, smtp: dict[str, Any]) -> None:
    """Serve until killed."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    recipients = await jetstream.key_value(contract.EMAIL_RECIPIENTS_BUCKET)
    index = await jetstream.key_value(contract.EMAIL_GROUP_INDEX_BUCKET)

    async def answer(msg: Msg) -> None:
        request = json.loads(msg.data)
        email_id, group_id = str(uuid.uuid4()), request.get("group_id") or str(uuid.uuid4())
        await aiosmtplib.send(_message(request, f"{group_id}/{email_id}"), **smtp)
        record = {"email_id": email_id, "group_id": group_id, "to": request["to"], "subject": request["subject"]}
        record["sent_at"] = datetime.now(UTC).isoformat()
        await recipients.put(email_id, json.dumps(record).encode())
        await _append(index, group_id, email_id)
        await msg.respond(json.dumps({"email_id": email_id, "group_id": group_id}).encode())

    await client.subscribe(SUBJECT, cb=answer)
    await client.flush()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


async def _append(index: KeyValue, group_id: str, email_id: str) -> None:
    try:
        entry = await index.get(group_id)
    except KeyNotFoundError:
        await index.create(group_id, json.dumps([email_id]).encode())
    else:
        email_ids = [*json.loads(entry.value or b"[]"), email_id]
        await index.update(group_id, json.dumps(email_ids).encode(), entry.revision)


def _message(request: dict[str, str], tracking_id: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "LFX Self Serve <noreply@lfx.linuxfoundation.org>"
    message["To"] = request["to"]
    message["Subject"] = request["subject"]
    message["Date"] = formatdate()
    message["X-LFX-TRACKING-ID"] = tracking_id
    message.set_content(request["text"])
    message.add_alternative(request["html"], subtype="html")
    return message


def _smtp(port: str, ca_file: str = "") -> dict[str, Any]:
    where: dict[str, Any] = {"hostname": "localhost", "port": int(port), "start_tls": bool(ca_file)}
    if ca_file:
        username, password = smtp_load.CREDENTIALS
        where |= {"cert_bundle": ca_file, "username": username, "password": password}
    return where


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], _smtp(*sys.argv[2:])))

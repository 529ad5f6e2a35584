# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The naive tracker of events: one at a time, each deleted alone.

`python -m tests.bench.naive_events URL QUEUE_URL`
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import nats

from shared import contract
from tests.bench import sqs_drain

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

TRACKING_HEADER = "X-LFX-TRACKING-ID"


async def main(url: str, queue_url: str) -> None:
    """Receive, apply and delete until killed."""
    recipients = await (await nats.connect(url)).jetstream().key_value(contract.EMAIL_RECIPIENTS_BUCKET)
    sqs = sqs_drain.client(queue_url)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        answer = await asyncio.to_thread(
            sqs.receive_message, QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=20
        )
        for message in answer.get("Messages") or []:
            await _apply(recipients, json.loads(json.loads(message["Body"])["Message"]))
            await asyncio.to_thread(sqs.delete_message, QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])


async def _apply(recipients: KeyValue, event: dict[str, Any]) -> None:
    headers = {header["name"]: header["value"] for header in event["mail"]["headers"]}
    entry = await recipients.get(headers[TRACKING_HEADER].rpartition("/")[2])
    record = json.loads(entry.value or b"{}")
    kind = event["eventType"].lower()
    record[{"delivery": "delivered", "open": "opened", "click": "clicked"}[kind]] = True
    record[f"{kind}_at"] = event[kind]["timestamp"]
    await recipients.update(entry.key, json.dumps(record).encode(), entry.revision)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The limit of events: ten received, ten deleted, with boto3 in two threads, and no other work.

`python -m tests.bench.sqs_drain QUEUE_URL`
"""

from __future__ import annotations

import sys
import threading
from typing import Any
from urllib.parse import urlsplit

import boto3

THREADS = 2  # more are slower
BATCH = 10


def client(queue_url: str) -> Any:
    """Return a client of the queue's endpoint; boto3 needs credentials, the endpoint ignores them."""
    url = urlsplit(queue_url)
    return boto3.session.Session().client(
        "sqs",
        region_name="us-west-2",
        endpoint_url=f"{url.scheme}://{url.netloc}",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )


def _drain(sqs: Any, queue_url: str) -> None:
    while True:
        messages = _receive(sqs, queue_url, BATCH)
        if messages:
            entries = [{"Id": str(at), "ReceiptHandle": one["ReceiptHandle"]} for at, one in enumerate(messages)]
            sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)


def _receive(sqs: Any, queue_url: str, most: int) -> list[dict[str, Any]]:
    answer = sqs.receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=most,
        WaitTimeSeconds=20,
        VisibilityTimeout=60,
        MessageSystemAttributeNames=["SentTimestamp"],
    )
    messages: list[dict[str, Any]] = answer.get("Messages") or []
    return messages


def main(queue_url: str) -> None:
    """Receive and delete until killed."""
    sqs = client(queue_url)
    threads = [threading.Thread(target=_drain, args=(sqs, queue_url)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])

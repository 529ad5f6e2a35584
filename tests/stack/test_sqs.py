# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The SQS endpoint with boto3, and the SES events."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.stack import ses_events, sqs_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stack.sqs_endpoint import SqsEndpoint


class Sqs:
    """The real client of the endpoint, in threads, without retries."""

    def __init__(self, endpoint: SqsEndpoint) -> None:
        self._url = endpoint.queue_url
        self._client = boto3.client(
            "sqs",
            endpoint_url=endpoint.endpoint_url,
            region_name="us-west-2",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=Config(retries={"total_max_attempts": 1}),
        )

    async def __call__(self, action: str, **arguments: object) -> dict[str, Any]:
        """Call an action of the queue."""
        method: Callable[..., dict[str, Any]] = getattr(self._client, action)
        return await asyncio.to_thread(method, QueueUrl=self._url, **arguments)


async def test_sqs_long_poll_wakes_up_when_a_message_arrives() -> None:
    async with sqs_endpoint.running() as endpoint:
        sqs = Sqs(endpoint)
        assert "Messages" not in await sqs("receive_message")
        poll = asyncio.create_task(sqs("receive_message", WaitTimeSeconds=10, MessageSystemAttributeNames=["All"]))
        await endpoint.wait_for_calls("ReceiveMessage", 2)
        message_id = endpoint.send("höhe", sent_at=1000.0)
        [message] = (await asyncio.wait_for(poll, 20))["Messages"]
        assert (message["MessageId"], message["Body"]) == (message_id, "höhe")
        assert message["Attributes"]["SentTimestamp"] == "1000000"
        assert message["Attributes"]["ApproximateReceiveCount"] == "1"
        assert (endpoint.visible, endpoint.in_flight) == (0, 1)
        await sqs("delete_message", ReceiptHandle=message["ReceiptHandle"])
        await endpoint.wait_until_empty()
        assert endpoint.deleted == [message_id]
        assert "AWS4-HMAC-SHA256 Credential=key/" in endpoint.requests[0].authorization


async def test_sqs_client_that_leaves_its_long_poll_receives_no_message() -> None:
    async with sqs_endpoint.running() as endpoint:
        body = b'{"WaitTimeSeconds": 20}'
        _, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
        head = "POST /0/engagement-events HTTP/1.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await endpoint.wait_for_calls("ReceiveMessage")
        writer.close()
        await endpoint.wait_for_no_connections()
        endpoint.send("stays")
        assert (endpoint.visible, endpoint.in_flight) == (1, 0)


async def test_sqs_message_is_visible_again_after_its_timeout_and_its_old_handle_is_invalid() -> None:
    async with sqs_endpoint.running(max_receive_count=2) as endpoint:
        sqs = Sqs(endpoint)
        endpoint.send("body")
        [first] = (await sqs("receive_message"))["Messages"]
        started = time.monotonic()
        await sqs("change_message_visibility", ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=1)
        [second] = (await sqs("receive_message", WaitTimeSeconds=20, VisibilityTimeout=0))["Messages"]
        assert time.monotonic() - started > 0.9
        with pytest.raises(ClientError, match="ReceiptHandleIsInvalid"):
            await sqs("delete_message", ReceiptHandle=first["ReceiptHandle"])
        with pytest.raises(ClientError, match="not available for visibility timeout change"):
            await sqs("change_message_visibility", ReceiptHandle=second["ReceiptHandle"], VisibilityTimeout=5)
        assert "Messages" not in await sqs("receive_message")
        assert endpoint.queues["engagement-events-dlq"].visible == 1


async def test_sqs_batches_fail_in_part_and_calls_fail_on_demand() -> None:
    async with sqs_endpoint.running() as endpoint:
        sqs = Sqs(endpoint)
        for body in "abc":
            endpoint.send(body)
        messages = (await sqs("receive_message", MaxNumberOfMessages=10))["Messages"]
        entries = [{"Id": message["Body"], "ReceiptHandle": message["ReceiptHandle"]} for message in messages]
        endpoint.fail_entries("DeleteMessageBatch", count=1)
        answer = await sqs("delete_message_batch", Entries=entries)
        assert [failed["Id"] for failed in answer["Failed"]] == ["a"]
        assert endpoint.in_flight == 1
        answer = await sqs("delete_message_batch", Entries=entries)
        assert "Failed" not in answer
        endpoint.fail_next("ReceiveMessage", "ServiceUnavailable", 503)
        with pytest.raises(ClientError, match="ServiceUnavailable"):
            await sqs("receive_message")
        assert "Messages" not in await sqs("receive_message")


async def test_sqs_missing_queue_is_the_error_of_sqs() -> None:
    async with sqs_endpoint.running() as endpoint:
        sqs = Sqs(endpoint)
        del endpoint.queues["engagement-events"]
        with pytest.raises(ClientError, match="NonExistentQueue"):
            await sqs("receive_message")


def test_ses_events_are_in_an_sns_envelope_and_name_the_mail() -> None:
    event = ses_events.click("group/email", datetime(2026, 1, 2, tzinfo=UTC), "https://lfx.dev")
    envelope = json.loads(ses_events.notification(event, "id"))
    assert envelope["MessageId"] == "id"
    message = json.loads(envelope["Message"])
    assert message["click"]["timestamp"] == "2026-01-02T00:00:00.000Z"
    assert {"name": "X-LFX-TRACKING-ID", "value": "group/email"} in message["mail"]["headers"]


async def test_a_message_in_flight_can_be_delivered_again_at_once() -> None:
    async with sqs_endpoint.running() as sqs:
        sqs.send("x")
        assert len(sqs.queue.receive(10, 60)) == 1
        assert (sqs.visible, sqs.in_flight) == (0, 1)
        sqs.redeliver()
        assert (sqs.visible, sqs.in_flight) == (1, 0)
        assert sqs.queue.receive(10, 60)[0].receive_count == 2

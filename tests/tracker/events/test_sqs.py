# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The queue through the real boto3, against a server that answers in the same way as SQS."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError, ProxyConnectionError, ReadTimeoutError

from shared.service import threads
from tracker.errors import QueueUnavailable
from tracker.events import sqs as sqs_module
from tracker.events.sqs import Message, Queue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.stack.sqs_endpoint import SqsEndpoint

REGIONAL = "https://sqs.us-east-2.amazonaws.com/000000000000/engagement-events"


@pytest.fixture
def queue(sqs: SqsEndpoint) -> Queue:
    """The queue on the server, as the tracker uses it."""
    return Queue(sqs.queue_url, os.environ, visibility_seconds=60)


@pytest.fixture
def short_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server answer an empty poll at once."""
    monkeypatch.setattr(sqs_module, "LONG_POLL_SECONDS", 0)


async def receive(queue: Queue, count: int) -> list[Message]:
    messages: list[Message] = []
    while len(messages) < count:
        messages += await queue.receive()
    return messages


def asked(sqs: SqsEndpoint, action: str) -> list[dict[str, Any]]:
    """The payloads of an action's calls."""
    return [call.payload for call in sqs.requests if call.action == action]


def handles(payload: dict[str, Any]) -> list[str]:
    return [entry["ReceiptHandle"] for entry in payload["Entries"]]


def handles_of(messages: Sequence[Message]) -> list[str]:
    return [message.receipt_handle for message in messages]


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [vars(one) for one in caplog.records if one.message == name]


async def test_a_message_comes_with_its_id_its_body_and_the_time_it_was_sent(sqs: SqsEndpoint, queue: Queue) -> None:
    message_id = sqs.send("höhe\n😀", sent_at=1_767_323_045.678)
    [message] = await queue.receive()
    assert (message.message_id, message.body) == (message_id, "höhe\n😀")
    assert message.sent_at == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    await queue.delete([message])
    assert sqs.deleted == [message_id]


async def test_a_poll_asks_for_ten_messages_for_twenty_seconds(sqs: SqsEndpoint, queue: Queue) -> None:
    sqs.send("body")
    await queue.receive()
    [payload] = asked(sqs, "ReceiveMessage")
    assert payload == {
        "QueueUrl": sqs.queue_url,
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": 20,
        "VisibilityTimeout": 60,
        "MessageSystemAttributeNames": ["SentTimestamp"],
    }


async def test_a_poll_brings_up_to_ten_messages(sqs: SqsEndpoint, queue: Queue) -> None:
    for number in range(12):
        sqs.send(str(number))
    assert len(await queue.receive()) == 10
    assert len(await queue.receive()) == 2


async def test_a_poll_waits_for_a_message(sqs: SqsEndpoint, queue: Queue) -> None:
    poll = asyncio.create_task(queue.receive())
    await sqs.wait_for_calls("ReceiveMessage")
    assert not poll.done()
    message_id = sqs.send("body")
    assert [message.message_id for message in await poll] == [message_id]


@pytest.mark.usefixtures("short_poll")
async def test_an_empty_poll_is_not_an_error(sqs: SqsEndpoint, queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        assert await queue.receive() == []
    sqs.send("body")
    assert len(await queue.receive()) == 1
    assert not caplog.records


@pytest.mark.usefixtures("short_poll")
async def test_polls_follow_each_other_over_one_connection(sqs: SqsEndpoint, queue: Queue) -> None:
    seen = set()
    for _ in range(5):
        await queue.receive()
        seen |= sqs._connections  # noqa: SLF001 - which connections there are, not only how many
    assert len(seen) == 1


async def test_each_of_many_polls_keeps_its_connection(sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue(sqs.queue_url, os.environ, visibility_seconds=60, long_polls=20)
    polls = [asyncio.create_task(queue.receive()) for _ in range(20)]
    await sqs.wait_for_calls("ReceiveMessage", 20)
    for _ in range(200):
        sqs.send("body")
    assert sum(map(len, await asyncio.gather(*polls))) == 200
    assert sqs.open_connections == 20
    assert not caplog.records


async def test_the_client_waits_longer_than_a_long_poll(queue: Queue) -> None:
    config = queue._connected().meta.config  # noqa: SLF001 - a poll of 20 s would be too long for a test
    assert config.read_timeout > 20
    assert config.connect_timeout < 20


async def test_an_abandoned_poll_does_not_delay_the_process(sqs: SqsEndpoint, queue: Queue) -> None:
    poll = asyncio.create_task(queue.receive())
    await sqs.wait_for_calls("ReceiveMessage")
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(poll, 20)
    assert {thread.daemon for thread in threading.enumerate() if thread.name == threads.NAME} == {True}


async def test_a_call_that_is_not_answered_ends(
    sqs: SqsEndpoint, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs_module, "CALL_SECONDS", 0.2)
    sqs.instead["ReceiveMessage"] = None
    with pytest.raises(QueueUnavailable, match=r"receive_message: no answer within 0\.2 s"):
        await queue.receive()


async def test_messages_are_deleted_ten_at_a_time(sqs: SqsEndpoint, queue: Queue) -> None:
    for number in range(25):
        sqs.send(str(number))
    messages = await receive(queue, 25)
    await queue.delete(messages)
    await sqs.wait_until_empty()
    assert [len(payload["Entries"]) for payload in asked(sqs, "DeleteMessageBatch")] == [10, 10, 5]
    assert sqs.deleted == [message.message_id for message in messages]


async def test_without_messages_no_call_is_made(sqs: SqsEndpoint, queue: Queue) -> None:
    await queue.delete([])
    await queue.change_visibility([], 0)
    assert not sqs.requests


async def test_the_failed_entries_of_a_delete_are_tried_again_alone(
    sqs: SqsEndpoint, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        sqs.send(str(number))
    messages = await queue.receive()
    sqs.fail_entries("DeleteMessageBatch", count=2, code="InternalError", sender_fault=False)
    await queue.delete(messages)
    first, second = asked(sqs, "DeleteMessageBatch")
    assert handles(first) == handles_of(messages)
    assert handles(second) == handles_of(messages[:2])
    await sqs.wait_until_empty()
    assert [one["code"] for one in logged(caplog, "queue.entry_failed")] == ["InternalError"] * 2
    assert not logged(caplog, "queue.undeleted")


async def test_failed_entries_are_found_by_their_ids(sqs: SqsEndpoint, queue: Queue) -> None:
    """The second try fails in part again, and its first entries are the ones left."""
    for number in range(5):
        sqs.send(str(number))
    messages = await queue.receive()
    for count in (3, 2):
        sqs.fail_entries("DeleteMessageBatch", count=count)
    await queue.delete(messages)
    assert [handles(payload) for payload in asked(sqs, "DeleteMessageBatch")] == [
        handles_of(messages),
        handles_of(messages[:3]),
        handles_of(messages[:2]),
    ]
    await sqs.wait_until_empty()


async def test_a_delete_is_tried_three_times_and_then_logged(
    sqs: SqsEndpoint, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    sqs.send("0")
    messages = await queue.receive()
    sqs.fail_entries("DeleteMessageBatch", times=9)
    await queue.delete(messages)
    assert sqs.calls["DeleteMessageBatch"] == 3
    assert [one["message_ids"] for one in logged(caplog, "queue.undeleted")] == [[messages[0].message_id]]
    assert sqs.in_flight == 1


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_delete_that_fails_as_a_whole_is_tried_three_times(
    sqs: SqsEndpoint, queue: Queue, failures: int
) -> None:
    sqs.send("0")
    messages = await queue.receive()
    sqs.fail_next("DeleteMessageBatch", "ServiceUnavailable", 503, times=failures)
    await queue.delete(messages)
    assert sqs.calls["DeleteMessageBatch"] == min(3, failures + 1)
    assert len(sqs.deleted) == (failures < 3)


@pytest.mark.parametrize("body", [b"<html></html>", b'{"Successful":[{"Id":'])
async def test_a_delete_whose_answer_is_not_one_of_sqs_is_tried_again(
    sqs: SqsEndpoint, queue: Queue, body: bytes
) -> None:
    sqs.send("0")
    messages = await queue.receive()
    sqs.instead["DeleteMessageBatch"] = body
    await queue.delete(messages)
    assert (sqs.calls["DeleteMessageBatch"], queue.undeleted) == (3, 1)


@pytest.mark.parametrize("entry", [{"Id": "7"}, {"Id": "x"}, {}])
async def test_a_failed_entry_that_was_not_asked_for_is_only_a_warning(
    sqs: SqsEndpoint, queue: Queue, caplog: pytest.LogCaptureFixture, entry: dict[str, str]
) -> None:
    sqs.send("0")
    messages = await queue.receive()
    sqs.instead["DeleteMessageBatch"] = json.dumps({"Failed": [{"Code": "InternalError", **entry}]}).encode()
    await queue.delete(messages)
    assert len(logged(caplog, "queue.entry_failed")) == 1


@pytest.mark.usefixtures("short_poll")
async def test_an_outdated_receipt_handle_is_a_warning_and_not_tried_again(
    sqs: SqsEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(sqs.queue_url, os.environ, visibility_seconds=0)
    sqs.send("received twice")
    [outdated] = await queue.receive()
    await queue.receive()
    sqs.send("received once")
    other = next(one for one in await queue.receive() if one.body == "received once")
    await queue.delete([outdated, other])
    assert sqs.deleted == [other.message_id]
    assert sqs.calls["DeleteMessageBatch"] == 1
    assert [one["code"] for one in logged(caplog, "queue.entry_failed")] == ["ReceiptHandleIsInvalid"]
    assert {one.levelno for one in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("code", ["ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"])
async def test_a_final_error_of_a_delete_is_not_tried_again(sqs: SqsEndpoint, queue: Queue, code: str) -> None:
    sqs.send("0")
    messages = await queue.receive()
    sqs.fail_entries("DeleteMessageBatch", code=code)
    await queue.delete(messages)
    assert sqs.calls["DeleteMessageBatch"] == 1


async def test_a_message_that_is_released_is_visible_at_once(sqs: SqsEndpoint, queue: Queue) -> None:
    for number in range(12):
        sqs.send(str(number))
    messages = await receive(queue, 12)
    await queue.change_visibility(messages[:11], 0)
    assert (sqs.visible, sqs.in_flight) == (11, 1)
    assert [len(payload["Entries"]) for payload in asked(sqs, "ChangeMessageVisibilityBatch")] == [10, 1]


async def test_a_message_that_is_kept_stays_invisible_beyond_its_first_timeout(sqs: SqsEndpoint) -> None:
    queue = Queue(sqs.queue_url, os.environ, visibility_seconds=1)
    kept, other = sqs.send("kept"), sqs.send("other")
    messages = {message.message_id: message for message in await receive(queue, 2)}
    await queue.change_visibility([messages[kept]], 100)
    [again] = await queue.receive()
    assert again.message_id == other
    assert sqs.in_flight == 2


@pytest.mark.parametrize("fault", ["entry", "call"])
async def test_a_visibility_that_cannot_be_changed_is_only_a_warning(
    sqs: SqsEndpoint, queue: Queue, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    sqs.send("0")
    messages = await queue.receive()
    if fault == "entry":
        sqs.fail_entries("ChangeMessageVisibilityBatch", code="ReceiptHandleIsInvalid", sender_fault=True)
    else:
        sqs.fail_next("ChangeMessageVisibilityBatch")
    await queue.change_visibility(messages, 0)
    assert {"entry": "queue.entry_failed", "call": "queue.visibility_failed"}[fault] in caplog.messages


async def test_no_visibility_is_changed_after_a_failed_call(
    sqs: SqsEndpoint, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(25):
        sqs.send(str(number))
    messages = await receive(queue, 25)
    sqs.fail_next("ChangeMessageVisibilityBatch")
    await queue.change_visibility(messages, 0)
    assert sqs.calls["ChangeMessageVisibilityBatch"] == 1
    assert [one["messages"] for one in logged(caplog, "queue.visibility_failed")] == [25]


@pytest.mark.parametrize(
    ("error", "status"), [("InternalFailure", 500), ("ThrottlingException", 400), ("AccessDenied", 403)]
)
async def test_a_failed_poll_is_raised_after_one_call(sqs: SqsEndpoint, queue: Queue, error: str, status: int) -> None:
    sqs.fail_next("ReceiveMessage", error, status)
    with pytest.raises(QueueUnavailable, match=f"receive_message.*{error}"):
        await queue.receive()
    assert sqs.receives == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"ok"',
        b'{"Messages":[{"MessageId":"x"}]}',
        b'{"Messages":[7]}',
        b'{"Messages":[{"MessageId":"0e1f',  # cut off
        b"<html><body>Welcome</body></html>",
        b"<?xml version='1.0'?><ReceiveMessageResponse/>",  # of the older protocol of SQS
        b"",
        b"\n",
    ],
)
async def test_an_answer_without_the_form_of_sqs_is_an_error(sqs: SqsEndpoint, queue: Queue, body: bytes) -> None:
    sqs.instead["ReceiveMessage"] = body
    with pytest.raises(QueueUnavailable, match="receive_message: "):
        await queue.receive()


@pytest.mark.parametrize("error", ["", "Signature=secret"])
async def test_a_web_server_in_the_place_of_sqs_is_named(sqs: SqsEndpoint, queue: Queue, error: str) -> None:
    sqs.instead["ReceiveMessage"] = f"<html>Welcome! {error}</html>{'x' * 1000}".encode()
    with pytest.raises(
        QueueUnavailable, match="receive_message: the answer is not one of SQS: '<html>Welcome!"
    ) as raised:
        await queue.receive()
    assert "secret" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", "it is empty"),
        (b" \r\n", "it is empty"),
        ("<p>für Gäste</p>".encode("latin-1"), "'<p>f\ufffdr G\ufffdste</p>'"),
        ('{"Messages":[{"Body":"ü"}]}'.encode("utf-16"), "'\ufffd\ufffd"),
    ],
)
async def test_an_answer_without_content_or_in_another_encoding_is_not_one_of_sqs(
    sqs: SqsEndpoint, queue: Queue, body: bytes, shown: str
) -> None:
    sqs.instead["ReceiveMessage"] = body
    with pytest.raises(QueueUnavailable, match=f"receive_message: the answer is not one of SQS: {shown}"):
        await queue.receive()


async def test_an_empty_answer_that_comes_at_once_is_followed_by_a_pause(
    sqs: SqsEndpoint, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs_module, "SHORTEST_EMPTY_POLL_SECONDS", 0.2)
    sqs.instead["ReceiveMessage"] = b"{}"
    started = time.monotonic()
    assert await queue.receive() == []
    assert time.monotonic() - started >= 0.2


async def test_a_queue_that_does_not_exist_is_unavailable(sqs: SqsEndpoint) -> None:
    with pytest.raises(QueueUnavailable, match="NonExistentQueue"):
        await Queue(sqs.url_of("other"), os.environ, visibility_seconds=60).receive()


async def test_a_stopped_server_is_unavailable_until_it_is_back(sqs: SqsEndpoint, queue: Queue) -> None:
    poll = asyncio.create_task(queue.receive())
    await sqs.wait_for_calls("ReceiveMessage")
    await sqs.stop()
    with pytest.raises(QueueUnavailable):
        await poll
    with pytest.raises(QueueUnavailable):
        await queue.receive()
    await sqs.start()
    sqs.send("body")
    assert len(await queue.receive()) == 1


async def test_without_credentials_the_queue_is_unavailable(
    sqs: SqsEndpoint, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(QueueUnavailable, match="Unable to locate credentials"):
        await queue.receive()
    assert not sqs.requests


def write_credentials(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")


@pytest.mark.parametrize(
    "error",
    [
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
    ],
)
async def test_after_refused_credentials_the_next_poll_takes_new_ones(
    sqs: SqsEndpoint, queue: Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write_credentials(tmp_path / "credentials", "AKIDOLD")
    sqs.fail_next("ReceiveMessage", error, 403)
    with pytest.raises(QueueUnavailable):
        await queue.receive()
    write_credentials(tmp_path / "credentials", "AKIDNEW")
    sqs.send("body")
    assert len(await queue.receive()) == 1
    assert ["Credential=AKIDOLD/" in call.authorization for call in sqs.requests] == [True, False]
    assert "Credential=AKIDNEW/" in sqs.requests[1].authorization


async def test_any_other_error_keeps_the_client(sqs: SqsEndpoint, queue: Queue) -> None:
    client = queue._connected()  # noqa: SLF001 - a new client takes long, and has no connections
    sqs.fail_next("ReceiveMessage")
    with pytest.raises(QueueUnavailable):
        await queue.receive()
    assert queue._connected() is client  # noqa: SLF001


@pytest.mark.parametrize("region", ["us-west-2", None])
async def test_calls_are_signed_for_the_region_of_the_queue(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, region: str | None
) -> None:
    """boto3's own setting of the endpoint leads the calls for a queue of AWS to this host."""
    if region:
        monkeypatch.setenv("AWS_REGION", region)
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", sqs.endpoint_url)
    sqs.send("body")
    assert len(await Queue(REGIONAL, os.environ, visibility_seconds=60).receive()) == 1
    assert "/us-east-2/sqs/aws4_request" in sqs.requests[0].authorization


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
    ],
)
async def test_without_a_region_in_the_queue_url_the_variables_count(
    sqs: SqsEndpoint, environ: dict[str, str], region: str
) -> None:
    sqs.send("body")
    await Queue(sqs.queue_url, environ, visibility_seconds=60).receive()
    assert f"/{region}/sqs/aws4_request" in sqs.requests[0].authorization


# Each with the region in it, and whether boto3 finds the endpoint from the region alone.
URLS = [
    ("https://sqs.us-east-2.amazonaws.com/000000000000/q", "us-east-2", True),
    ("https://sqs.eu-central-1.amazonaws.com/000000000000/q.fifo", "eu-central-1", True),
    ("https://us-west-2.queue.amazonaws.com/000000000000/q", "us-west-2", True),
    ("https://queue.amazonaws.com/000000000000/q", "us-east-1", True),
    ("https://sqs.us-gov-west-1.amazonaws.com/000000000000/q", "us-gov-west-1", True),
    ("https://sqs.cn-north-1.amazonaws.com.cn/000000000000/q", "cn-north-1", True),
    ("https://cn-north-1.queue.amazonaws.com.cn/000000000000/q", "cn-north-1", True),
    ("https://SQS.US-EAST-2.amazonaws.com/000000000000/q", "us-east-2", True),
    ("https://sqs-fips.us-east-1.amazonaws.com/000000000000/q", "us-east-1", True),
    ("https://sqs.us-west-2.api.aws/000000000000/q", "us-west-2", True),
    ("https://vpce-0a1b-2c3d.sqs.us-east-2.vpce.amazonaws.com/000000000000/q", "us-east-2", False),
    ("https://vpce-0a1b-2c3d-us-east-2a.sqs.us-east-2.vpce.amazonaws.com/0/q", "us-east-2", False),
    ("http://sqs.us-east-1.localhost.localstack.cloud:4566/000000000000/q", "us-east-1", False),
    ("http://localhost:4566/000000000000/q", None, False),
    ("http://localhost.localstack.cloud:4566/queue/us-east-1/000000000000/q", None, False),
    ("http://[::1]:9324/000000000000/q", None, False),
    ("http://127.0.0.1:5000/000000000000/sqs.us-east-2.amazonaws.com", None, False),
    ("http://sqs.localstack.svc.cluster.local:4566/000000000000/q", None, False),
    ("https://sqs.example.com/000000000000/q", None, False),
]


@pytest.mark.parametrize(("url", "region", "is_regional"), URLS)
def test_the_region_of_a_queue_url_and_its_endpoint_unless_boto3_finds_it(
    url: str, region: str | None, *, is_regional: bool
) -> None:
    endpoint = url[: url.index("/", len("https://"))]
    assert sqs_module.region_of(url) == region
    assert sqs_module.endpoint_of(url, {"AWS_ENDPOINT_URL_SQS": ""}) == (None if is_regional else endpoint)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("url", [REGIONAL, "http://localhost:4566/000000000000/q"])
def test_an_endpoint_that_is_set_for_boto3_is_left_to_boto3(url: str, name: str) -> None:
    assert sqs_module.endpoint_of(url, {name: "http://localhost:4566"}) is None


async def test_the_queue_url_names_the_endpoint_if_boto3_ignores_the_one_that_is_set(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else boto3 asks AWS for a queue of another server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "TRUE")
    sqs.send("body")
    assert await Queue(sqs.queue_url, os.environ, visibility_seconds=60).receive()


@pytest.mark.parametrize(
    ("url", "variable", "host"),
    [
        ("https://sqs.us-east-2.amazonaws.com/0/q", None, "sqs.us-east-2.amazonaws.com"),
        ("https://us-west-2.queue.amazonaws.com/0/q", None, "sqs.us-west-2.amazonaws.com"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/0/q", None, "sqs.cn-north-1.amazonaws.com.cn"),
        ("https://sqs-fips.us-east-1.amazonaws.com/0/q", "AWS_USE_FIPS_ENDPOINT", "sqs-fips.us-east-1.amazonaws.com"),
        ("https://sqs.us-west-2.api.aws/0/q", "AWS_USE_DUALSTACK_ENDPOINT", "sqs.us-west-2.api.aws"),
    ],
)
@pytest.mark.usefixtures("sqs")
def test_calls_go_to_the_region_of_the_queue(
    url: str, variable: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FIPS and dual-stack endpoints are boto3's own settings; a legacy host is another name of the present one."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    if variable:
        monkeypatch.setenv(variable, "true")
    client = Queue(url, os.environ, visibility_seconds=60)._connected()  # noqa: SLF001 - no call is made
    assert client.meta.endpoint_url == f"https://{host}"


TOKEN = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQD" * 8
CANONICAL = f"host:sqs\nx-amz-date:20260102T030405Z\nx-amz-security-token:{TOKEN}\n\nhost;x-amz-date"
MISMATCH = {"Code": "SignatureDoesNotMatch", "Message": f"We calculated another signature: '{CANONICAL}'"}


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ValueError(f"Invalid header value b'{TOKEN}\\n'"), "ValueError: Invalid header value ***"),
        (HTTPClientError(error=ValueError("Invalid header value b'short secret\\n'")), "An HTTP Client raised"),
        (
            ValueError(f"Authorization: AWS4-HMAC-SHA256 Credential=AKIDsecret/x, Signature={'secret' * 9}"),
            "ValueError",
        ),
        (OSError("https://sqs.x/?X-Amz-Credential=secret&X-Amz-Signature=secret&Action=A"), "Action=A"),
        (ProxyConnectionError(proxy_url="http://user:secret@proxy:8080"), "proxy:8080"),
        (ClientError({"Error": MISMATCH}, "ReceiveMessage"), "SignatureDoesNotMatch: We calculated another signature"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "not you"}}, "X"), "AccessDenied: not you"),
        (ClientError({}, "X"), "Unknown"),
        (ReadTimeoutError(endpoint_url="https://sqs.us-west-2.amazonaws.com/1/q"), "sqs.us-west-2.amazonaws.com/1/q"),
    ],
    ids=range(9),
)
def test_the_reason_of_a_failed_call_has_no_secrets(error: Exception, kept: str) -> None:
    reason = sqs_module.reason(error)
    assert kept in reason
    assert "secret" not in reason
    assert TOKEN[:60] not in reason


async def test_a_credential_that_cannot_be_a_header_is_not_logged(
    sqs: SqsEndpoint, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{TOKEN[:50]}\nsecond line")
    with pytest.raises(QueueUnavailable) as raised:
        await queue.receive()
    assert "receive_message: " in str(raised.value)
    assert TOKEN[:50] not in str(raised.value)
    assert not sqs.requests


async def test_a_message_without_a_time_was_sent_now(queue: Queue, sqs: SqsEndpoint) -> None:
    sqs.send("body", sent_at=0)
    [message] = await queue.receive()
    assert (datetime.now(UTC) - message.sent_at).total_seconds() < 60
    assert time.monotonic() - message.sent_on_clock < 60


@pytest.mark.parametrize("minutes", [-600, -10, 10, 600])
async def test_the_age_of_a_message_is_by_the_clock_of_the_server(
    sqs: SqsEndpoint, queue: Queue, minutes: float
) -> None:
    """Else an event that comes before its record does not wait for it, if this machine's clock is ahead."""
    there = datetime.now(UTC) + timedelta(minutes=minutes)
    sqs.receive_headers = [("Date", format_datetime(there, usegmt=True))]
    sqs.send("body", sent_at=there.timestamp() - 3600)
    [message] = await queue.receive()
    assert 3599 <= time.monotonic() - message.sent_on_clock < 3660


async def test_a_message_of_the_future_was_sent_now(sqs: SqsEndpoint, queue: Queue) -> None:
    """Else its event would wait for a missing record for as long as the clocks differ."""
    sqs.send("body", sent_at=time.time() + 86_400)
    [message] = await queue.receive()
    assert 0 <= time.monotonic() - message.sent_on_clock < 60


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 02 Jan 2026 03:04:05 -0000", "Fri, 99 Jan 2026 03:04:05 GMT"])
async def test_without_a_time_of_the_server_the_clock_of_this_machine_counts(
    sqs: SqsEndpoint, queue: Queue, date: str
) -> None:
    sqs.receive_headers = [("Date", date)]
    sqs.send("body", sent_at=time.time() - 3600)
    [message] = await queue.receive()
    assert 3599 <= time.monotonic() - message.sent_on_clock < 3660

# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` tells what the queue is like and what the tracker may do with it, and touches no message."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from shared.commands.check import checkup
from tests.stack.ports import free_port
from tracker.commands import sqs_check
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from shared.commands.check.checkup import Finding
    from tests.stack.sqs_endpoint import SqsEndpoint

CREDENTIALS, QUEUE, PERMISSIONS = sqs_check.CREDENTIALS, sqs_check.QUEUE, sqs_check.PERMISSIONS


async def found(url: str, *, eventing: bool = True) -> dict[str, Finding]:
    """Check a queue; return each finding by what it is about."""
    settings = TrackerSettings(ses_eventing_enabled=eventing, ses_engagement_sqs_queue_url=url)
    return {finding.about: finding async for finding in checkup.run([sqs_check.probe(settings, os.environ)])}


def with_dead_letters(sqs: SqsEndpoint, receives: int = 5) -> None:
    sqs.queue.redrive_to(sqs.add_queue("engagement-events-dlq"), receives)


async def test_a_queue_in_order_is_described_and_its_messages_stay_where_they_are(sqs: SqsEndpoint) -> None:
    with_dead_letters(sqs)
    sqs.send("{}")
    findings = await found(sqs.queue_url)
    assert {one.verdict for one in findings.values()} == {"ok"}
    assert findings[CREDENTIALS].found == "from env, region us-east-1"
    assert findings[QUEUE].found == (
        "about 1 messages wait, 0 in flight, kept for 4 days, "
        "visibility 300 s (each receive asks for its own), after 5 receives to engagement-events-dlq"
    )
    assert findings[PERMISSIONS].found == "may receive, delete, and change visibility"
    (message,) = sqs.queue.receive(10, 0)
    assert message.receive_count == 1


async def test_all_that_is_odd_about_a_queue_is_told(sqs: SqsEndpoint) -> None:
    with_dead_letters(sqs, receives=1)
    sqs.queue.attributes = {"MessageRetentionPeriod": "3600"}
    findings = await found(sqs.queue_url)
    assert findings[QUEUE].verdict == "warning"
    for advice in ("maxReceiveCount to 3", "keep messages for days", "let SNS send"):
        assert advice in findings[QUEUE].advice


async def test_a_queue_without_dead_letters_is_a_warning(sqs: SqsEndpoint) -> None:
    findings = await found(sqs.queue_url)
    assert (findings[QUEUE].verdict, "dead-letter queue" in findings[QUEUE].advice) == ("warning", True)


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("ReceiveMessage", "sqs:ReceiveMessage"),
        ("DeleteMessage", "sqs:DeleteMessage"),
        ("ChangeMessageVisibility", "sqs:ChangeMessageVisibility"),
    ],
)
async def test_a_permission_that_is_missing_is_named(sqs: SqsEndpoint, action: str, permission: str) -> None:
    sqs.fail_next(action, "AccessDenied", 403)
    findings = await found(sqs.queue_url)
    assert (findings[PERMISSIONS].verdict, findings[PERMISSIONS].found) == ("failed", f"denied: {permission}")


async def test_attributes_that_may_not_be_read_hide_no_permission(sqs: SqsEndpoint) -> None:
    sqs.fail_next("GetQueueAttributes", "AccessDenied", 403)
    findings = await found(sqs.queue_url)
    assert (findings[QUEUE].verdict, findings[PERMISSIONS].verdict) == ("warning", "ok")
    assert findings[QUEUE].advice == "grant sqs:GetQueueAttributes"


@pytest.mark.parametrize(
    ("error", "said"), [("InvalidClientTokenId", "not, or no longer, good"), ("InternalFailure", "the way to AWS")]
)
async def test_a_queue_that_cannot_be_asked_is_a_failure(sqs: SqsEndpoint, error: str, said: str) -> None:
    sqs.fail_next("GetQueueAttributes", error, 403)
    findings = await found(sqs.queue_url)
    assert findings[QUEUE].verdict == "failed"
    assert said in findings[QUEUE].advice


async def test_a_queue_that_is_not_there_and_a_host_that_is_not_there_are_told_apart(sqs: SqsEndpoint) -> None:
    missing = await found(sqs.url_of("other"))
    assert (missing[QUEUE].verdict, missing[QUEUE].found) == ("failed", "there is no such queue")
    nobody = await found(f"http://127.0.0.1:{free_port()}/000000000000/engagement-events")
    assert nobody[QUEUE].verdict == "failed"
    assert "EndpointConnectionError" in nobody[QUEUE].found


async def test_no_credentials_are_a_failure(sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    findings = await found(sqs.queue_url)
    assert (findings[CREDENTIALS].verdict, findings[CREDENTIALS].found) == ("failed", "there are none")
    assert "NoCredentialsError" in findings[QUEUE].found


async def test_a_role_whose_token_is_not_there_is_a_failure(sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/tracker")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")
    findings = await found(sqs.queue_url)
    assert findings[CREDENTIALS].verdict == "failed"
    assert "/nowhere/token" in findings[CREDENTIALS].found


async def test_a_tracker_without_eventing_says_so() -> None:
    findings = await found("", eventing=False)
    assert findings[QUEUE].verdict == "skipped"
    assert "SES_EVENTING_ENABLED is false" in findings[QUEUE].found
    for url in ("", "http://[x"):
        assert (await found(url))[QUEUE].verdict == "skipped"

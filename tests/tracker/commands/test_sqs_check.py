# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""`check` describes the queue and the tracker's permissions, and receives no message."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from shared.commands.check import checks
from tests.stack.ports import free_port
from tracker.commands import sqs_check
from tracker.settings import TrackerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from shared.commands.check.checks import Finding
    from tests.stack.sqs_endpoint import SqsEndpoint

CREDENTIALS, QUEUE, PERMISSIONS = sqs_check.CREDENTIALS, sqs_check.QUEUE, sqs_check.PERMISSIONS


async def found(url: str, *, eventing: bool = True) -> dict[str, Finding]:
    """Check a queue; return each finding under its `about`."""
    settings = TrackerSettings(ses_eventing_enabled=eventing, ses_engagement_sqs_queue_url=url)
    return {finding.about: finding async for finding in checks.run([sqs_check.check(settings, os.environ)])}


def with_dead_letters(sqs: SqsEndpoint, receives: int = 5) -> None:
    sqs.queue.redrive_to(sqs.add_queue("engagement-events-dlq"), receives)


async def test_a_healthy_queue_is_described_and_no_message_is_received(sqs: SqsEndpoint) -> None:
    with_dead_letters(sqs)
    sqs.send("{}")
    findings = await found(sqs.queue_url)
    assert {one.status for one in findings.values()} == {"ok"}
    assert findings[CREDENTIALS].found == "from env, region us-east-1"
    assert findings[QUEUE].found == (
        "about 1 message waiting, 0 in flight, kept for 4 days, "
        "visibility 300 s (each receive sets its own), moved to engagement-events-dlq after 5 receives"
    )
    assert findings[PERMISSIONS].found == "may receive, delete and change visibility"
    (message,) = sqs.queue.receive(10, 0)
    assert message.receive_count == 1


async def test_there_is_advice_on_everything_unusual_about_a_queue(sqs: SqsEndpoint) -> None:
    with_dead_letters(sqs, receives=1)
    sqs.queue.attributes = {"MessageRetentionPeriod": "3600"}
    findings = await found(sqs.queue_url)
    assert findings[QUEUE].status == "warning"
    for advice in ("maxReceiveCount to 3", "set a retention of days", "allow SNS to send"):
        assert advice in findings[QUEUE].advice


async def test_the_depth_of_the_dead_letter_queue_is_shown(sqs: SqsEndpoint) -> None:
    with_dead_letters(sqs)
    empty = (await found(sqs.queue_url))[sqs_check.DEAD_LETTERS]
    assert (empty.status, empty.found) == ("ok", "engagement-events-dlq: about 0 messages")
    sqs.queues["engagement-events-dlq"].send("{}")
    one = (await found(sqs.queue_url))[sqs_check.DEAD_LETTERS]
    assert (one.status, one.found) == ("warning", "engagement-events-dlq: about 1 message")
    assert "replay" in one.advice


@pytest.mark.parametrize(("days", "words"), [(-1, "24 hours ahead of"), (1, "24 hours behind")])
async def test_a_wrong_clock_is_named(sqs: SqsEndpoint, days: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sqs.fail_next("GetQueueAttributes", "SignatureDoesNotMatch", 403)
    date = format_datetime(datetime.now(UTC) + timedelta(days=days, seconds=days * 5), usegmt=True)
    monkeypatch.setattr(sqs_check, "parsedate_to_datetime", lambda _: parsedate_to_datetime(date))
    assert f"the clock of this machine is {words} that of AWS" in (await found(sqs.queue_url))[QUEUE].advice


async def test_a_queue_without_dead_letters_is_a_warning(sqs: SqsEndpoint) -> None:
    findings = await found(sqs.queue_url)
    assert (findings[QUEUE].status, "dead-letter queue" in findings[QUEUE].advice) == ("warning", True)


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("ReceiveMessage", "sqs:ReceiveMessage"),
        ("DeleteMessage", "sqs:DeleteMessage"),
        ("ChangeMessageVisibility", "sqs:ChangeMessageVisibility"),
    ],
)
async def test_a_missing_permission_is_named(sqs: SqsEndpoint, action: str, permission: str) -> None:
    sqs.fail_next(action, "AccessDenied", 403)
    findings = await found(sqs.queue_url)
    assert (findings[PERMISSIONS].status, findings[PERMISSIONS].found) == ("failed", f"denied: {permission}")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InvalidAttributeValue", 400),  # ElasticMQ
        ("InvalidAttributeName", 400),
        ("InvalidParameterValue", 400),
        ("ReadCountOutOfRange", 400),
        ("ReceiptHandleIsInvalid", 404),
        ("ReceiptHandleIsInvalid ", 400),
        ("MessageNotInflight", 400),
        ("AWS.SimpleQueueService.MessageNotInFlight", 400),  # GoAWS
        ("AWS.SimpleQueueService.QueueExists", 404),
        ("AWS.SimpleQueueService.ValidationError", 400),
        ("ValidationException", 400),
        ("MissingParameter", 400),
        ("400", 400),
        ("404", 404),
    ],
)
async def test_any_refusal_of_the_parameters_shows_the_permission(sqs: SqsEndpoint, code: str, status: int) -> None:
    for action in ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"):
        sqs.fail_next(action, code, status)
    findings = await found(sqs.queue_url)
    assert findings[PERMISSIONS].status == "ok"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AccessDeniedException", 400),
        ("KMS.AccessDeniedException", 400),
        ("KMS.DisabledException", 400),
        ("AWS.SimpleQueueService.NonExistentQueue", 400),
        ("QueueDoesNotExist", 400),
        ("InvalidClientTokenId", 403),
        ("SignatureDoesNotMatch", 403),
        ("UnsupportedOperation", 400),
        ("UnknownOperationException", 404),
        ("RequestThrottled", 400),
        ("403", 403),
        ("InternalFailure", 500),
        ("ServiceUnavailable", 503),
    ],
)
async def test_a_refusal_for_another_reason_does_not_show_the_permission(
    sqs: SqsEndpoint, code: str, status: int
) -> None:
    sqs.fail_next("DeleteMessage", code, status, times=9)
    findings = await found(sqs.queue_url)
    assert findings[PERMISSIONS].status == "failed"


async def test_no_call_asks_for_a_number_of_messages_that_a_server_could_return(sqs: SqsEndpoint) -> None:
    await found(sqs.queue_url)
    [receive] = [call.payload for call in sqs.requests if call.action == "ReceiveMessage"]
    assert receive["MaxNumberOfMessages"] < -1  # GoAWS and LocalStack return one message for 0, LocalStack all for -1
    assert receive["WaitTimeSeconds"] < 0


async def test_a_server_without_attributes_is_a_warning_and_its_permissions_are_checked(sqs: SqsEndpoint) -> None:
    for code in ("UnsupportedOperation", "InvalidAttributeName"):
        sqs.fail_next("GetQueueAttributes", code, 400)
        findings = await found(sqs.queue_url)
        assert (findings[QUEUE].status, findings[PERMISSIONS].status) == ("warning", "ok")


async def test_without_permission_for_the_attributes_the_others_are_still_checked(sqs: SqsEndpoint) -> None:
    sqs.fail_next("GetQueueAttributes", "AccessDenied", 403)
    findings = await found(sqs.queue_url)
    assert (findings[QUEUE].status, findings[PERMISSIONS].status) == ("warning", "ok")
    assert findings[QUEUE].advice == "grant sqs:GetQueueAttributes"


@pytest.mark.parametrize(
    ("error", "status", "advice"),
    [
        ("InvalidClientTokenId", 403, "renew them"),
        ("InternalFailure", 500, "SQS itself fails"),
        ("InternalError", 400, "SQS itself fails"),
        ("RequestThrottled", 400, "try again later"),
        ("RequestExpired", 403, "the clock of this machine is wrong"),
        ("SignatureDoesNotMatch", 403, "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"),
        ("SomethingElse", 403, "the network to AWS"),
        ("404", 404, "check the URL"),  # a web server that is not a queue
    ],
)
async def test_a_queue_whose_attributes_cannot_be_read_is_a_failure(
    sqs: SqsEndpoint, error: str, status: int, advice: str
) -> None:
    sqs.fail_next("GetQueueAttributes", error, status)
    findings = await found(sqs.queue_url)
    assert findings[QUEUE].status == "failed"
    assert advice in findings[QUEUE].advice


async def test_a_missing_queue_and_an_unreachable_host_are_distinguished(sqs: SqsEndpoint) -> None:
    missing = await found(sqs.url_of("other"))
    assert (missing[QUEUE].status, missing[QUEUE].found) == ("failed", "does not exist")
    unreachable = await found(f"http://127.0.0.1:{free_port()}/000000000000/engagement-events")
    assert unreachable[QUEUE].status == "failed"
    assert "Could not connect to the endpoint" in unreachable[QUEUE].found


async def test_missing_credentials_are_a_failure(sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    findings = await found(sqs.queue_url)
    assert (findings[CREDENTIALS].status, findings[CREDENTIALS].found) == ("failed", "not found")
    assert "Unable to locate credentials" in findings[QUEUE].found


async def test_a_role_without_its_token_file_is_a_failure(sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/tracker")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")
    findings = await found(sqs.queue_url)
    assert findings[CREDENTIALS].status == "failed"
    assert "/nowhere/token" in findings[CREDENTIALS].found


async def test_credentials_that_cannot_be_used_are_a_failure_that_names_the_reason(
    sqs: SqsEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Botocore raises errors of any type here, such as RuntimeError for those that are still expired."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    given = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "secret", "SessionToken": "secret"}
    (tmp_path / "expired").write_text(json.dumps(given | {"Expiration": "2020-01-01T00:00:00Z"}))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'expired'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    findings = await found(sqs.queue_url)
    for about in (CREDENTIALS, QUEUE):
        assert findings[about].status == "failed"
        assert "still expired" in findings[about].found
        assert "report this as a bug" not in findings[about].advice


async def test_a_web_server_is_not_a_queue(sqs: SqsEndpoint) -> None:
    sqs.instead["GetQueueAttributes"] = b"<html>Welcome</html>"
    findings = await found(sqs.queue_url)
    assert (findings[QUEUE].status, PERMISSIONS in findings) == ("failed", False)
    assert "not one of SQS: '<html>" in findings[QUEUE].found
    assert "check the URL" in findings[QUEUE].advice


async def test_without_eventing_or_a_valid_url_the_queue_is_skipped() -> None:
    findings = await found("", eventing=False)
    assert findings[QUEUE].status == "skipped"
    assert "SES_EVENTING_ENABLED is false" in findings[QUEUE].found
    for url in ("", "http://[x"):
        assert (await found(url))[QUEUE].status == "skipped"

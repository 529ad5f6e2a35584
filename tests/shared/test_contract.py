# Copyright The Linux Foundation and each contributor to LFX.
# SPDX-License-Identifier: MIT
"""The wire contract, compared with the samples of the specification and the values that the Go service writes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import contract

ROOT = Path(__file__).parents[2]
EMAIL_ID = "550e8400-e29b-41d4-a716-446655440000"
SUBJECT = "You've been added as a Writer on Demo Project"
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)

OPENED_RECORD = {
    "email_id": EMAIL_ID,
    "group_id": "invite-batch-abc123",
    "to": "user@example.com",
    "subject": SUBJECT,
    "sent_at": "2025-01-15T10:30:00Z",
    "delivered": True,
    "delivered_at": "2025-01-15T10:30:02Z",
    "opened": True,
    "opened_at_list": [
        {"event_id": "abc-sns-message-id-1", "opened_at": "2025-01-15T11:05:33Z"},
        {"event_id": "abc-sns-message-id-2", "opened_at": "2025-01-15T14:22:10Z"},
    ],
    "last_opened_at": "2025-01-15T14:22:10Z",
    "failed": False,
}
DELIVERED_RECORD = {
    "email_id": EMAIL_ID,
    "group_id": "invite-batch-abc123",
    "to": "user@example.com",
    "subject": SUBJECT,
    "sent_at": "2025-01-15T10:30:00Z",
    "delivered": True,
    "delivered_at": "2025-01-15T10:30:02Z",
    "opened": False,
    "failed": False,
}
NEWER_FIELDS = {"open_count": 0, "clicked": False, "click_count": 0}
"""Fields that are newer than the samples of the specification."""

WIRE_NAMES = {
    "SEND_EMAIL_SUBJECT": "lfx.email-service.send_email",
    "GET_EMAIL_STATUS_SUBJECT": "lfx.email-service.get_email_status",
    "GET_EMAIL_ENGAGEMENT_ANALYTICS_SUBJECT": "lfx.email-service.get_email_engagement_analytics",
    "QUEUE_GROUP": "lfx.email-service.queue",
    "EMAIL_DELIVERED_SUBJECT": "lfx.email-service.email_delivered",
    "EMAIL_OPENED_SUBJECT": "lfx.email-service.email_opened",
    "EMAIL_LINK_CLICKED_SUBJECT": "lfx.email-service.email_link_clicked",
    "EMAIL_FAILED_SUBJECT": "lfx.email-service.email_failed",
    "EMAIL_RECIPIENTS_BUCKET": "email-recipients",
    "EMAIL_GROUP_INDEX_BUCKET": "email-group-index",
    "INVALID_REQUEST_PAYLOAD": "invalid request payload",
    "REQUIRED_FIELDS_MISSING": "to, subject, html, and text are required",
    "INVALID_GROUP_ID": "invalid group_id",
    "INVALID_TO": "invalid to address",
    "INVALID_FROM": "invalid from address",
    "INVALID_REPLY_TO": "invalid reply_to address",
    "INVALID_SUBJECT": "invalid subject",
    "INVALID_DISPLAY_NAME": "invalid from_display_name",
    "TO_TOO_LONG": "to address too long",
    "FROM_TOO_LONG": "from address too long",
    "REPLY_TO_TOO_LONG": "reply_to address too long",
    "SUBJECT_TOO_LONG": "subject too long",
    "DISPLAY_NAME_TOO_LONG": "from_display_name too long",
    "FROM_NOT_ALLOWED": "from address domain not allowed",
    "REPLY_TO_NOT_ALLOWED": "reply_to address domain not allowed",
    "DELIVERY_FAILED": "email delivery failed",
    "SERVICE_BUSY": "service busy",
    "INTERNAL_ERROR": "internal error",
    "EMAIL_OR_GROUP_REQUIRED": "email_id or group_id is required",
    "ONLY_ONE_ID": "only one of email_id or group_id may be set",
    "INVALID_OFFSET": "invalid offset",
    "INVALID_LIMIT": "invalid limit",
    "NOT_FOUND": "not found",
    "RESPONSE_TOO_LARGE": "response too large",
}

SAMPLES: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
    (
        contract.SendEmailRequest,
        {
            "to": "user@example.com",
            "subject": SUBJECT,
            "html": "<html>...</html>",
            "text": "You've been added as a Writer on Demo Project.",
            "group_id": "invite-batch-abc123",
        },
    ),
    (contract.SendEmailRequest, {"to": "alice@example.com", "subject": "Test", "html": "<p>Hi</p>", "text": "Hi"}),
    (
        contract.SendEmailRequest,
        {
            "to": "a@example.com",
            "subject": "s",
            "html": "h",
            "text": "t",
            "from": "f@example.com",
            "from_display_name": "F",
            "reply_to": "r@example.com",
            "list_unsubscribe_url": "https://lfx.dev/u",
            "list_unsubscribe_post": True,
        },
    ),
    (contract.SendEmailResponse, {"email_id": EMAIL_ID, "group_id": "invite-batch-abc123"}),
    (contract.SendEmailResponse, {"email_id": "", "group_id": ""}),
    (contract.ErrorResponse, {"error": "email delivery failed"}),
    (contract.ErrorResponse, {"error": "response too large", "total": 0}),
    (
        contract.ErrorResponse,
        {"error": "email delivery failed", "outcome": "not_sent", "permanent": False, "smtp_code": 451},
    ),
    (contract.ErrorResponse, {"error": "internal error", "outcome": "unknown"}),
    (contract.GetEmailStatusRequest, {"email_id": EMAIL_ID}),
    (contract.GetEmailStatusRequest, {"group_id": "g", "offset": 0, "limit": 100}),
    (contract.GetEmailEngagementAnalyticsRequest, {"group_id": "invite-batch-abc123"}),
    (
        contract.GetEmailEngagementAnalyticsResponse,
        {
            "group_id": "invite-batch-abc123",
            "total_sent": 42,
            "delivered": 40,
            "opened": 31,
            "unique_opened": 18,
            "failed": 2,
        },
    ),
    (contract.EmailRecipientRecord, OPENED_RECORD | NEWER_FIELDS),
    (contract.EmailRecipientRecord, DELIVERED_RECORD | NEWER_FIELDS),
    (
        contract.EmailRecipientRecord,
        DELIVERED_RECORD
        | {
            "open_count": 0,
            "clicked": True,
            "click_count": 1,
            "click_event_ids": ["c1"],
            "click_list": [{"event_id": "c1", "link": "https://lfx.dev", "clicked_at": "2025-01-15T12:00:00Z"}],
            "last_clicked_at": "2025-01-15T12:00:00Z",
            "failed": True,
            "failed_at": "2025-01-15T12:00:00Z",
            "failure": {"kind": "bounce", "type": "Permanent", "sub_type": "General", "diagnostic": "550 no"},
            "complained_at": "2025-01-15T13:00:00Z",
            "delay": {
                "type": "MailboxFull",
                "at": "2025-01-15T11:00:00Z",
                "until": "2025-01-15T23:00:00Z",
                "diagnostic": "452 full",
            },
        },
    ),
    (
        contract.EmailDeliveredEvent,
        {"email_id": EMAIL_ID, "group_id": "g", "delivered_at": "2025-01-15T12:00:00Z"},
    ),
    (
        contract.EmailOpenedEvent,
        {"email_id": EMAIL_ID, "group_id": "g", "open_count": 1, "opened_at": "2025-01-15T12:00:00Z"},
    ),
    (
        contract.EmailLinkClickedEvent,
        {
            "email_id": EMAIL_ID,
            "group_id": "g",
            "event_id": "c1",
            "link": "https://lfx.dev",
            "click_count": 1,
            "clicked_at": "2025-01-15T12:00:00Z",
        },
    ),
    (
        contract.EmailFailedEvent,
        {"email_id": EMAIL_ID, "group_id": "g", "reason": "bounce", "failed_at": "2025-01-15T12:00:00Z"},
    ),
    (
        contract.EmailFailedEvent,
        {
            "email_id": EMAIL_ID,
            "group_id": "g",
            "reason": "complaint",
            "failed_at": "2025-01-15T12:00:00Z",
            "failure": {"kind": "complaint", "type": "abuse"},
        },
    ),
    (
        contract.EmailFailedEvent,
        {
            "email_id": EMAIL_ID,
            "group_id": "g",
            "reason": "reject",
            "failed_at": "2025-01-15T12:00:00Z",
            "failure": {"kind": "reject", "diagnostic": "Bad content"},
        },
    ),
]


@pytest.mark.parametrize(("kind", "sample"), SAMPLES, ids=lambda it: getattr(it, "__name__", None))
def test_a_sample_is_encoded_as_the_same_json_and_unknown_fields_are_ignored(
    kind: type[msgspec.Struct], sample: dict[str, Any]
) -> None:
    decoded = msgspec.json.decode(json.dumps(sample), type=kind)
    assert json.loads(msgspec.json.encode(decoded)) == sample
    assert msgspec.json.decode(json.dumps({**sample, "x": [1], "To": 1, "": None}), type=kind) == decoded


@pytest.mark.parametrize("sample", [OPENED_RECORD, DELIVERED_RECORD])
def test_a_record_without_the_newer_fields_gets_their_defaults_only(sample: dict[str, Any]) -> None:
    decoded = msgspec.json.decode(json.dumps(sample), type=contract.EmailRecipientRecord)
    assert json.loads(msgspec.json.encode(decoded)) == sample | NEWER_FIELDS


def test_a_new_record_has_every_boolean_and_count_and_no_optional_field() -> None:
    record = contract.EmailRecipientRecord(email_id="e", group_id="g", to="a@example.com", subject="s", sent_at=NOON)
    assert json.loads(msgspec.json.encode(record)) == {
        "email_id": "e",
        "group_id": "g",
        "to": "a@example.com",
        "subject": "s",
        "sent_at": "2025-01-15T12:00:00Z",
        "delivered": False,
        "opened": False,
        "open_count": 0,
        "clicked": False,
        "click_count": 0,
        "failed": False,
    }


@pytest.mark.parametrize(
    "kind",
    [contract.SendEmailRequest, contract.GetEmailStatusRequest, contract.GetEmailEngagementAnalyticsRequest],
)
def test_null_means_the_same_as_an_absent_field_of_a_request(kind: type[msgspec.Struct]) -> None:
    nothing = msgspec.json.decode(b"{}", type=kind)
    every_name = [field.encode_name for field in msgspec.structs.fields(kind)]
    assert msgspec.json.decode(json.dumps(dict.fromkeys(every_name)), type=kind) == nothing
    assert msgspec.json.encode(nothing) == b"{}"


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2025-01-15T12:00:00Z", NOON),
        ("2025-01-15T12:00:00.5Z", NOON + timedelta(milliseconds=500)),
        ("2025-01-15T12:00:00.123456789Z", NOON + timedelta(microseconds=123457)),
        ("2025-01-15T13:00:00+01:00", NOON),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_that_go_writes_is_read_as_the_same_instant(written: str, instant: datetime) -> None:
    sample = DELIVERED_RECORD | {"sent_at": written}
    assert msgspec.json.decode(json.dumps(sample), type=contract.EmailRecipientRecord).sent_at == instant


def test_a_time_without_zone_is_refused() -> None:
    sample = DELIVERED_RECORD | {"sent_at": "2025-01-15T12:00:00"}
    with pytest.raises(msgspec.ValidationError, match=r"sent_at"):
        msgspec.json.decode(json.dumps(sample), type=contract.EmailRecipientRecord)


@pytest.mark.parametrize(
    ("instant", "written"),
    [
        (NOON, '"2025-01-15T12:00:00Z"'),
        (NOON.replace(microsecond=60_000), '"2025-01-15T12:00:00.060000Z"'),
        (NOON.astimezone(timezone(timedelta(0))), '"2025-01-15T12:00:00Z"'),
    ],
)
def test_a_time_in_utc_is_written_with_a_z(instant: datetime, written: str) -> None:
    assert msgspec.json.encode(instant).decode() == written


def test_subjects_buckets_and_error_strings_are_spelled_as_callers_know_them() -> None:
    assert {name: getattr(contract, name) for name in WIRE_NAMES} == WIRE_NAMES


def test_importing_the_contract_imports_no_client_library() -> None:
    program = (
        "import sys; from shared import contract; print(*sorted(set(sys.modules) & {'nats','boto3','aiosmtplib'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=30, cwd=ROOT)  # noqa: S603 - ours
    assert done.stdout.strip() == b""
